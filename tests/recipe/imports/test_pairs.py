"""`diht import`: every layout into the same pairs, resumed, refused, and bad rows counted by reason."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.cli.main import main
from diht_k8s.data.shards.images import decode
from diht_k8s.data.shards.samples import weighted_captions
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples
from tests.recipe.imports.loose_pairs import SOURCES, drawn, in_folder, jpeg, separated
from tests.recipe.imports.outputs import imported, pairs


@pytest.mark.parametrize("layout", SOURCES)
def test_import_of_every_layout_gives_the_same_pairs(layout: str, tmp_path: Path) -> None:
    marker = imported(SOURCES[layout](tmp_path / "in", 12), tmp_path / "out", "--shard-size", "5")
    found = pairs(tmp_path / "out")
    assert [sample.caption for sample in found] == [drawn(number)[1] for number in range(12)]
    assert [sample.image for sample in found] == [jpeg(number) for number in range(12)]
    assert all(sample.problem is None for sample in found)
    assert [shard["samples"] for shard in marker["shards"]] == [4, 4, 4]
    assert (marker["samples"], marker["records"], marker["bad"]) == (12, 12, {})


def test_import_of_a_folder_keeps_what_the_json_says(tmp_path: Path) -> None:
    imported(SOURCES["folder-json"](tmp_path / "in", 2), tmp_path / "out")
    assert [sample.meta["punsafe"] for sample in pairs(tmp_path / "out")] == [0.1, 0.1]


@pytest.mark.parametrize("layout", ["folder-txt", "csv", "json-lines", "parquet-paths", "coco"])
def test_import_when_an_image_was_repaired_since_needs_replace(
    layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = SOURCES[layout](tmp_path / "in", 3)
    image = min((tmp_path / "in").rglob("*.jpg"))
    sound = image.read_bytes()
    image.write_bytes(sound[:300])
    assert imported(source, tmp_path / "out")["samples"] == 2
    assert imported(source, tmp_path / "out")["samples"] == 2
    image.write_bytes(sound)
    assert main(["import", str(source), str(tmp_path / "out")]) == UserError.exit_code
    assert "holds another import (of another SOURCE, or its files have changed)" in capsys.readouterr().err
    assert imported(source, tmp_path / "out", "--replace")["samples"] == 3


def test_import_counts_what_is_left_out_by_reason_with_an_example(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = in_folder(tmp_path / "in", 4)
    rows = [{"image": f"{number:04d}.jpg", "caption": f"a dog sees {number}"} for number in range(4)]
    (folder / "cut.jpg").write_bytes(jpeg(0)[:300])
    (folder / "empty.jpg").write_bytes(b"")
    bad = [
        {"image": "gone.jpg", "caption": "x"},
        {"image": "cut.jpg", "caption": "x"},
        {"image": "empty.jpg", "caption": "x"},
        {"image": "0000.jpg", "caption": " "},
        {"image": "0000.jpg"},
        {"image": "0001.jpg", "caption": 7},
        {"image": "0001.jpg", "caption": "a" * 20_000},
        {"image": None, "caption": "x"},
    ]
    lines = [json.dumps(row).encode() for row in (*rows, *bad)]
    lines += [b"{broken", b'{"image": "0002.jpg", "caption": "caf\xe9"}']
    (folder / "pairs.jsonl").write_bytes(b"\n".join(lines))
    marker = imported(folder / "pairs.jsonl", tmp_path / "out")
    assert {reason: found["count"] for reason, found in marker["bad"].items()} == {
        "picture_missing": 1,
        "picture_unreadable": 1,
        "picture_empty": 2,
        "caption_empty": 1,
        "caption_missing": 1,
        "caption_no_text": 1,
        "caption_too_long": 1,
        "caption_not_utf8": 1,
        "row_unreadable": 1,
    }
    assert marker["bad"]["caption_missing"]["example"] == f"{folder / 'pairs.jsonl'} line 9"
    assert marker["samples"] + sum(found["count"] for found in marker["bad"].values()) == marker["records"] == 14
    said = capsys.readouterr().out
    assert f"left out: 1 row_unreadable, for example {folder / 'pairs.jsonl'} line 13" in said
    assert f"diht init {tmp_path / 'out'}" in said


def test_import_writes_a_pair_for_each_caption_of_an_image(tmp_path: Path) -> None:
    folder = in_folder(tmp_path / "in", 2)
    lines = [f"0000.jpg#{n}\tcaption {n}\n" for n in range(3)] + ["0001.jpg#0\tanother\n"]
    (folder / "results.token").write_text("".join(lines))
    imported(folder / "results.token", tmp_path / "out")
    assert [s.caption for s in pairs(tmp_path / "out")] == ["caption 0", "caption 1", "caption 2", "another"]
    assert len({s.uid for s in pairs(tmp_path / "out")}) == 4
    imported(folder / "results.token", tmp_path / "first", "--captions", "first")
    assert [s.caption for s in pairs(tmp_path / "first")] == ["caption 0", "another"]
    imported(folder / "results.token", tmp_path / "list", "--captions", "list")
    listed = pairs(tmp_path / "list")
    assert [s.caption for s in listed] == ["caption 0", "another"]
    assert [weighted_captions(s.meta) for s in listed] == [[(f"caption {n}", 1.0) for n in range(3)], []]


def test_import_of_shards_that_lie_there_checks_them_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in"
    for shard in range(2):
        members = [(f"{n}", {"jpg": jpeg(n), "txt": b"a dog", "json": b"{}"}) for n in range(3)]
        write_samples(Storage(), str(source / f"{shard:05d}.tar"), [*members, ("9", {"jpg": jpeg(9)})])
        (source / f"{shard:05d}_stats.json").write_text(json.dumps({"successes": 4 + shard}))
    assert main(["import", str(source), str(tmp_path / "out"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["samples"], found["bad"]["caption_missing"]["count"]) == (6, 2)
    assert found["notes"] == [f"{source}/00001.tar holds 4 samples, but 00001_stats.json says 5"]
    assert not (tmp_path / "out").exists()


def cut_shard(folder: Path) -> Path:
    write_samples(Storage(), str(folder / "0.tar"), [(str(n), {"jpg": jpeg(n), "txt": b"a"}) for n in range(3)])
    (folder / "0.tar").write_bytes((folder / "0.tar").read_bytes()[:2000])
    return folder


def file(name: str, content: str = "") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        in_folder(folder, 1)
        (folder / name).write_text(content)
        return folder / name

    return write


def two_languages(card: str | None = None, german: str = "caption") -> Callable[[Path], Path]:
    """A Parquet file in each of two folders, and the README.md of the repository."""

    def write(folder: Path) -> Path:
        for language, caption in (("de", german), ("en", "caption")):
            (folder / language).mkdir(parents=True)
            table = pa.table({"image": [jpeg(0)], caption: [language]})
            pq.write_table(table, folder / language / "train-0.parquet")
        if card is not None:
            (folder / "README.md").write_text(card)
        return folder

    return write


TWO_CONFIGS = """---
configs:
- config_name: de
  data_files: de/*
- config_name: en
  data_files: en/*
---
# Captions
"""


def without_captions(folder: Path) -> Path:
    in_folder(folder, 2)
    for path in folder.glob("*.txt"):
        path.unlink()
    return folder


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def without_images(folder: Path) -> Path:
    folder.mkdir()
    (folder / "a.mp4").write_bytes(b"")
    return folder


REFUSED: dict[str, tuple[Callable[[Path], Path], type[Exception], str]] = {
    "nothing": (lambda folder: folder, UserError, "does not exist: name a folder of images"),
    "empty folder": (made, UserError, "is empty: name a folder of images with a .txt or .json beside each"),
    "no captions": (without_captions, UserError, "none of the 2 images .* has a caption: write NAME.txt"),
    "no images": (without_images, UserError, "holds no images .its files: 1 .mp4"),
    "URLs": (file("a.csv", "url,caption\nhttps://x/y.jpg,a dog\n"), UserError, "run img2dataset on it"),
    "unknown columns": (
        file("a.csv", "path,words\n0000.jpg,a\n"),
        UserError,
        "its columns: path, words.*--caption-column",
    ),
    "images elsewhere": (
        file("a.csv", "image,caption\nno.jpg,a\n"),
        UserError,
        "name the folder of the images by --images",
    ),
    "no rows": (file("a.csv", "image,caption\n"), DataError, "has no rows that can be read: expected a header"),
    "other JSON": (file("a.json", "[]"), UserError, "expected COCO's"),
    "other file": (file("a.zip"), UserError, "is no table or annotation file"),
    "several configs": (
        two_languages(TWO_CONFIGS),
        UserError,
        "de and .*en are several data sets .README.md lists configs",
    ),
    "other columns": (
        two_languages(german="text"),
        UserError,
        "several data sets .they differ in the columns caption, text",
    ),
    "damaged shard": (cut_shard, DataError, "is damaged after"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_import_of_what_cannot_be_read_says_what_to_do(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write, kind, said = REFUSED[case]
    code = main(["import", str(write(tmp_path / "in")), str(tmp_path / "out")])
    assert code == kind.exit_code  # type: ignore[attr-defined]
    assert re.search(said, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("folder", "card", "captions"),
    [
        (".", None, ["de", "en"]),
        (".", "# Captions\nconfigs: none", ["de", "en"]),
        (".", "---\nconfigs: [{config_name: all, data_files: '*/*'}]\n---\n", ["de", "en"]),
        (".", "---\nconfigs: [\n---\n", ["de", "en"]),
        ("en", TWO_CONFIGS, ["en"]),
    ],
    ids=["no card", "a card without configs", "one config", "a card that is no YAML", "the folder of a config"],
)
def test_import_when_folders_are_parts_of_one_set_reads_them_together(
    folder: str, card: str | None, captions: list[str], tmp_path: Path
) -> None:
    imported(two_languages(card)(tmp_path / "in") / folder, tmp_path / "out")
    assert [sample.caption for sample in pairs(tmp_path / "out")] == captions


@pytest.mark.parametrize("command", [["import"], ["benchmarks", "import"]], ids=" ".join)
@pytest.mark.parametrize(
    ("source", "options", "said"),
    [
        ("s3://bucket/photos", [], "s3://bucket/photos is no path on this machine's disk: copy it there first"),
        (".", ["--images", "./no//folder"], "--images ./no//folder: there is no such folder"),
    ],
    ids=["a URI", "no folder of images"],
)
def test_import_from_what_is_no_folder_says_so_as_it_was_typed(
    command: list[str], source: str, options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, source, str(tmp_path / "out"), *options]) == UserError.exit_code
    assert said in capsys.readouterr().err


def test_import_into_another_import_is_refused_until_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, other = in_folder(tmp_path / "a", 7), in_folder(tmp_path / "b", 2)
    imported(first, tmp_path / "out", "--shard-size", "3")
    for source in (first, other):  # the first one with shards of another size
        assert main(["import", str(source), str(tmp_path / "out")]) == UserError.exit_code
        assert "add --replace" in capsys.readouterr().err
    imported(other, tmp_path / "out", "--replace")
    assert len(pairs(tmp_path / "out")) == 2


def test_import_of_an_image_with_dots_in_its_name_finds_its_caption(tmp_path: Path) -> None:
    folder = in_folder(tmp_path / "in", 1)
    for suffix in (".jpg", ".txt"):
        (folder / f"0000{suffix}").rename(folder / f"my.photo.v2{suffix}")
    imported(folder, tmp_path / "out")
    assert [sample.caption for sample in pairs(tmp_path / "out")] == [drawn(0)[1]]


def test_import_of_a_gif_stores_its_first_frame_as_png(tmp_path: Path) -> None:
    folder = in_folder(tmp_path / "in", 1)
    drawn(1)[0].save(folder / "b.gif")
    (folder / "b.txt").write_text("a gif moves")
    imported(folder, tmp_path / "out")
    assert [sorted(sample.members) for sample in pairs(tmp_path / "out")] == [
        ["jpg", "json", "txt"],
        ["json", "png", "txt"],
    ]


def test_import_of_a_csv_takes_commas_in_its_last_column(tmp_path: Path) -> None:
    folder = in_folder(tmp_path / "in", 1)
    (folder / "captions.txt").write_text("image,caption\n0000.jpg,a dog, a cat , and a bird\n")
    imported(folder, tmp_path / "out")
    assert [sample.caption for sample in pairs(tmp_path / "out")] == ["a dog, a cat , and a bird"]


@pytest.mark.parametrize(
    ("lines", "captions", "bad"),
    [
        (["image,caption,id", "0000.jpg,a dog, a cat,1", '0001.jpg,"a dog, a cat",2'], ["a dog, a cat"], 1),
        (["image,caption,id", '0000.jpg, "a boat, blue",1', "0001.jpg,a dog,2,,"], ["a dog"], 1),
        (["image,id,caption", "0000.jpg,1,a dog, a cat", "0001.jpg,2,a dog"], ["a dog, a cat", "a dog"], 0),
    ],
    ids=["comma in the middle", "quote behind a space, empty cells", "comma at the end"],
)
def test_import_of_a_csv_takes_no_cell_for_another_ones(
    lines: list[str], captions: list[str], bad: int, tmp_path: Path
) -> None:
    folder = in_folder(tmp_path / "in", 2)
    (folder / "pairs.csv").write_text("\n".join(lines))
    marker = imported(folder / "pairs.csv", tmp_path / "out")
    assert [sample.caption for sample in pairs(tmp_path / "out")] == captions
    assert sum(found["count"] for found in marker["bad"].values()) == bad


def test_import_of_files_of_windows_drops_their_mark_and_refuses_utf_16(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = in_folder(tmp_path / "in", 1)
    (folder / "0000.txt").write_text("a dog runs", encoding="utf-8-sig")
    imported(folder, tmp_path / "out")
    assert pairs(tmp_path / "out")[0].members["txt"] == b"a dog runs"
    (folder / "pairs.tsv").write_text("image\tcaption\n0000.jpg\ta dog\u2019s ball\n", encoding="utf-16")
    assert main(["import", str(folder / "pairs.tsv"), str(tmp_path / "other")]) == DataError.exit_code
    assert "pairs.tsv is UTF-16: save it as UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_import_of_grey_in_16_bits_is_not_white(suffix: str, tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    (tmp_path / "in").mkdir()
    Image.fromarray(ramp).save(tmp_path / f"in/a.{suffix}")
    (tmp_path / "in/a.txt").write_text("a ramp")
    imported(tmp_path / "in", tmp_path / "out")
    found = np.asarray(decode(pairs(tmp_path / "out")[0].image))[..., 0]
    assert np.abs(found.astype(int) - ramp // 257).max() <= 1


def test_import_of_images_beside_shards_is_refused_unless_the_format_says_which(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = in_folder(tmp_path / "in", 3)
    write_samples(Storage(), str(folder / "backup.tar"), [("0", {"jpg": jpeg(0), "txt": b"a dog"})])
    assert main(["import", str(folder), str(tmp_path / "out")]) == UserError.exit_code
    assert "--format folder imports the images" in capsys.readouterr().err
    assert imported(folder, tmp_path / "out", "--format", "folder")["samples"] == 3


def test_import_again_reads_what_another_option_names_and_what_is_gone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, out = separated(",", ".csv")(tmp_path / "right", 2), tmp_path / "out"
    (tmp_path / "wrong").mkdir()
    for number in range(2):
        (tmp_path / f"wrong/{number:04d}.jpg").write_bytes(jpeg(9))
    imported(table, out, "--images", str(tmp_path / "wrong"))
    assert main(["import", str(table), str(out), "--images", str(tmp_path / "right")]) == UserError.exit_code
    assert "add --replace" in capsys.readouterr().err
    imported(table, out, "--images", str(tmp_path / "right"), "--replace")
    assert [sample.image for sample in pairs(out)] == [jpeg(0), jpeg(1)]
    (out / "00000.tar").unlink()
    imported(table, out, "--images", str(tmp_path / "right"))
    assert len(pairs(out)) == 2
    before = (out / "00000.tar").stat().st_mtime_ns
    imported(table, out, "--images", str(tmp_path / "right"))
    assert (out / "00000.tar").stat().st_mtime_ns == before
    imported(table, out, "--images", str(tmp_path / "right"), "--replace")
    assert (out / "00000.tar").stat().st_mtime_ns > before


def test_import_says_which_of_several_columns_the_captions_are_from(tmp_path: Path) -> None:
    folder = in_folder(tmp_path / "in", 1)
    (folder / "pairs.csv").write_text("filename,title,description\n0000.jpg,a name,a dog runs\n")
    assert imported(folder / "pairs.csv", tmp_path / "out")["notes"] == [
        "captions are from the column title (also there: description): --caption-column chooses"
    ]
    assert imported(folder / "pairs.csv", tmp_path / "other", "--caption-column", "description")["notes"] == []


@pytest.mark.parametrize("command", [["import"], ["benchmarks", "import"]])
@pytest.mark.parametrize("source", ["/dev/null", "x" * 300])
def test_import_from_what_is_no_file_says_so_without_a_traceback(
    command: list[str], source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, source, str(tmp_path / "out")]) == UserError.exit_code
    assert re.search("neither a file nor a folder|File name too long", capsys.readouterr().err)
