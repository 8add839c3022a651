"""What an import says of each file and row: stored, bad by reason, ignored by suffix or reason; and it adds up."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.cli.main import main
from diht_k8s.data.imports import records, resumable_import, shard_writer
from diht_k8s.data.imports.folders import read_loose_images
from diht_k8s.data.imports.pair_import import PairImport, import_pairs
from diht_k8s.data.imports.records import MAX_SUFFIXES, ImageRecord, ReaderOptions
from diht_k8s.data.shards.storage import Storage
from tests.recipe.imports.loose_pairs import coco, drawn, in_folder, jpeg
from tests.recipe.imports.outputs import imported, pairs

HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAXxtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAACJpbG9jAA"
    "AAAERAAAEAAQAAAAABoAABAAAAAAAAAHEAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA/GlwcnAA"
    "AADcaXBjbwAAAHVodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQApQgEBA3AAAAMAkA"
    "AAAwAAAwAeoCCBBZbqrprm4CGgwIAAAAyAAAADAIRiAAEABkQBwXPBiQAAABNjb2xybmNseAABAA0ABoAAAAAUaXNwZQAAAAAAAABAAAAAQAAA"
    "AChjbGFwAAAAGAAAAAEAAAAQAAAAAf///9gAAAAC////0AAAAAIAAAAQcGl4aQAAAAADCAgIAAAAGGlwbWEAAAAAAAAAAQABBYECAwWEAAAAeW"
    "1kYXQAAABtKAGvCch5AwNAI5iW/8Nfvdof+6b5G2Amh7rgAq8E216mX++WNN5kul6dT4L4dkIRQe3WT0pNdnTWw7gOcVaNlUWfNK/UEJG8ZFtR"
    "FSt+4yo/QOxt512q0yT1n78Iy3rrJBVEJ6T0xKmrkjFvgA=="
)
"""24 x 16 pixels, red with a blue corner."""


def counts(tally: dict[str, Any]) -> dict[str, int]:
    return {reason: each["count"] for reason, each in tally.items()}


def ignored(marker: dict[str, Any]) -> dict[str, int]:
    return counts(marker["seen"]["ignored"])


def adds_up(marker: dict[str, Any]) -> bool:
    seen = marker["seen"]
    accounted = marker["images"] + sum(counts(marker["bad"]).values()) + seen["beside"] + sum(ignored(marker).values())
    return seen["count"] == accounted


def hide_heif(patch: pytest.MonkeyPatch) -> None:
    for module in (shard_writer, resumable_import):
        patch.setattr(module, "can_read_heif", lambda: False)


def test_account_of_a_folder_names_every_file_that_is_no_pair(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_heif(monkeypatch)
    folder = in_folder(tmp_path / "in", 4)
    (folder / "0001.jpg").rename(folder / "0001.jfif")
    (folder / "0002.jpg").write_bytes(HEIC)
    (folder / "0002.jpg").rename(folder / "0002.HEIC")
    (folder / "0003.jpg").unlink()
    for name in (".hidden.jpg", ".git/config", "film.mp4", "film2.MP4", "orphan.txt", "no_suffix"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    (folder / "a.jpg").mkdir()
    (folder / "a.jpg/inner.png").write_bytes(b"no image")
    (folder / "a.jpg/inner.txt").write_text("a dog")
    (folder / "loop.mov").symlink_to("loop.mov")
    (folder / "again").symlink_to(folder)
    os.mkfifo(folder / "pipe.jpg")
    Image.new("1", (6000, 6000)).save(folder / "big.tiff", compression="group4")
    (folder / "big.txt").write_text("a wall")
    for name in ("first", "zz"):
        (folder / name).symlink_to("a.jpg")
    for number in range(MAX_SUFFIXES):
        (folder / f"scan.{number:04d}").write_bytes(b"")
    monkeypatch.setattr(shard_writer, "_png", lambda _: pytest.fail("a huge image was decoded"))
    marker = imported(folder, tmp_path / "out")
    assert counts(marker["bad"]) == {
        "caption_missing": 1,
        "heif_package_missing": 1,
        "picture_too_large": 1,
        "picture_unreadable": 1,
    }
    assert {reason: count for reason, count in ignored(marker).items() if not reason.startswith(".0")} == {
        "hidden": 2,
        ".mp4": 2,
        "caption_without_image": 2,
        "no suffix": 1,
        "link_dangling": 1,
        "link_to_folder": 3,
        "no_file": 1,
        "other suffixes": 2,
    }
    assert (marker["samples"], marker["seen"]["count"], adds_up(marker)) == (2, 43, True)
    said = capsys.readouterr().out
    assert "43 files seen: 2 images stored, 4 bad, 5 captions beside images, 32 ignored" in said
    assert f"ignored: 2 .mp4, for example {folder}/film.mp4" in said
    assert "[heif]'" in said


def test_heic_is_read_where_its_package_is_and_then_stored_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pi_heif", reason="the optional package of the extra heif")
    folder = in_folder(tmp_path / "in", 2)
    (folder / "0001.jpg").write_bytes(HEIC)
    (folder / "0001.jpg").rename(folder / "0001.heic")
    with monkeypatch.context() as patch:
        hide_heif(patch)
        assert imported(folder, tmp_path / "out")["samples"] == 1
    marker = imported(folder, tmp_path / "out")
    assert (marker["samples"], marker["bad"]) == (2, {})
    image = Image.open(io.BytesIO(pairs(tmp_path / "out")[1].image))
    assert (image.format, image.size) == ("JPEG", (24, 16))
    red, blue = image.getpixel((20, 12)), image.getpixel((2, 2))
    assert isinstance(red, tuple)
    assert isinstance(blue, tuple)
    assert red[0] > 200 > red[2]
    assert blue[2] > 200 > blue[0]


def test_avif_is_stored_as_an_upright_jpeg_and_as_png_where_it_is_transparent(tmp_path: Path) -> None:
    folder = in_folder(tmp_path / "in", 1)
    turned = Image.Exif()
    turned[0x112] = 6
    drawn(1)[0].resize((64, 32)).save(folder / "a.avif", exif=turned)
    clear = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    clear.save(folder / "b.avif")
    for name in ("a", "b"):
        (folder / f"{name}.txt").write_text("a shape")
    imported(folder, tmp_path / "out")
    found = [Image.open(io.BytesIO(sample.image)) for sample in pairs(tmp_path / "out")]
    assert [(image.format, image.size, image.mode) for image in found[1:]] == [
        ("JPEG", (32, 64), "RGB"),
        ("PNG", (16, 16), "RGBA"),
    ]


def secret_world(root: Path) -> tuple[Path, Path]:
    """A folder of which a caption, an image and a folder are links to a secret one."""
    folder, secret = in_folder(root / "in", 3), in_folder(root / "secret", 2)
    (secret / "shadow").write_text("root:secret")
    (folder / "0000.txt").unlink()
    (folder / "0000.txt").symlink_to(secret / "shadow")
    (folder / "0001.jpg").unlink()
    (folder / "0001.jpg").symlink_to("../secret/0001.jpg")
    (folder / "more").symlink_to(secret)
    return folder, secret


def test_links_that_leave_the_source_are_refused_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = secret_world(tmp_path)
    marker = imported(folder, tmp_path / "out")
    assert counts(marker["bad"]) == {"caption_outside_of_source": 1, "picture_outside_of_source": 1}
    assert ignored(marker) == {"outside_of_source": 1}
    assert [sample.caption for sample in pairs(tmp_path / "out")] == [drawn(2)[1]]
    assert adds_up(marker)
    assert "by --allow-links DIR" in capsys.readouterr().out
    assert b"root:secret" not in b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*.tar"))


def test_links_are_followed_where_they_may_lead(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, secret = secret_world(tmp_path)
    (secret / "back").symlink_to(folder)
    imported(folder, tmp_path / "out")
    assert main(["import", str(folder), str(tmp_path / "out"), "--allow-links", str(secret)]) == UserError.exit_code
    assert "another import (links" in capsys.readouterr().err
    marker = imported(folder, tmp_path / "out", "--allow-links", str(secret), "--replace")
    assert [sample.meta["source_path"] for sample in pairs(tmp_path / "out")] == [
        "0000.jpg",
        "0001.jpg",
        "0002.jpg",
        "more/0000.jpg",
        "more/0001.jpg",
    ]
    assert (marker["bad"], ignored(marker)) == ({}, {"link_to_folder": 1, "no suffix": 1})


def test_images_that_no_row_of_a_table_in_their_folder_names_are_noted(tmp_path: Path) -> None:
    folder = in_folder(tmp_path / "in/images", 4).parent
    (folder / "metadata.csv").write_text("image,caption\nimages/0001.jpg,a dog\nimages/../images/0002.jpg,a cat\n")
    marker = imported(folder, tmp_path / "out")
    assert marker["notes"] == [
        f"2 images below {folder} are named by no row of metadata.csv, for example {folder}/images/0000.jpg"
    ]


def test_a_link_that_is_gone_when_it_is_followed_is_a_dangling_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, real = in_folder(tmp_path / "in", 1), os.path.realpath
    (folder / "going.mp4").symlink_to("0000.jpg")

    def removing(path: str, **options: Any) -> str:
        if str(path).endswith("going.mp4"):
            Path(path).unlink()
            raise FileNotFoundError(path)  # as Python 3.11 does where a link goes away while it is read
        return real(path, **options)

    monkeypatch.setattr(os.path, "realpath", removing)
    marker = imported(folder, tmp_path / "out")
    assert (ignored(marker), adds_up(marker)) == ({"link_dangling": 1}, True)


def test_a_link_that_changes_after_it_was_looked_at_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = secret_world(tmp_path)
    monkeypatch.setattr(records.SourceRoots, "refusal", lambda *_: None)
    roots = records.SourceRoots.of(folder)
    with pytest.raises(records.SourceFileError, match="outside_of_source"):
        roots.read(folder / "0000.txt")
    assert roots.read(folder / "0002.txt").decode().strip() == drawn(2)[1]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_paths_of_a_table_that_leave_the_source_are_refused(suffix: str, tmp_path: Path) -> None:
    folder, secret = in_folder(tmp_path / "in", 2), in_folder(tmp_path / "secret", 1)
    names = ["0000.jpg", "../secret/0000.jpg", str(secret / "0000.jpg"), str(folder / "0001.jpg")]
    rows, path = [{"image": name, "caption": "a dog"} for name in names], folder / f"pairs.{suffix}"
    if suffix == "csv":
        path.write_text("image,caption\n" + "".join(f"{row['image']},a dog\n" for row in rows))
    elif suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    marker = imported(path, tmp_path / "out")
    assert counts(marker["bad"]) == {"picture_outside_of_source": 2}
    assert [sample.meta["source_path"] for sample in pairs(tmp_path / "out")] == ["0000.jpg", "0001.jpg"]
    assert imported(path, tmp_path / "all", "--allow-links", str(secret))["samples"] == 4


@pytest.mark.parametrize("name", ["metadata.csv", "train.parquet"])
def test_a_table_that_is_found_in_a_folder_is_no_link_out_of_it(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "elsewhere").mkdir()
    pq.write_table(pa.table({"image": [jpeg(0)], "caption": ["a dog"]}), tmp_path / "elsewhere/train.parquet")
    (tmp_path / "elsewhere/metadata.csv").write_text("image,caption\n")
    (tmp_path / f"in/{name}").symlink_to(tmp_path / "elsewhere" / name)
    assert main(["import", str(tmp_path / "in"), str(tmp_path / "out")]) == UserError.exit_code
    assert f"allow it by --allow-links {tmp_path}/elsewhere" in capsys.readouterr().err


def test_coco_entries_without_their_counterpart_are_counted(tmp_path: Path) -> None:
    path = coco(tmp_path / "in", 4)
    document = json.loads(path.read_text())
    del document["annotations"][0]["caption"]
    document["annotations"][1]["caption"] = 7
    document["annotations"] += [{"image_id": 99, "caption": "lost"}, {"caption": "lost"}, "junk"]
    document["images"] += [{"id": 50, "file_name": "x.jpg"}, {"id": 2}, 5]
    document["images"][3]["license"] = 4
    path.write_text(json.dumps(document))
    marker = imported(path, tmp_path / "out")
    assert ignored(marker) == {
        "annotation_without_caption": 3,
        "annotation_without_image": 2,
        "image_without_caption": 3,
        "entry_without_name": 2,
    }
    assert (marker["samples"], marker["seen"]["count"], adds_up(marker)) == (2, 14, True)
    assert pairs(tmp_path / "out")[1].meta == {
        "id": 3,
        "license": 4,
        "source_path": "train2017/0003.jpg",
        "source_row": "captions_train2017.json image 3",
    }


def test_lines_that_name_no_image_are_counted(tmp_path: Path) -> None:
    folder = in_folder(tmp_path / "in", 2)
    lines = ["0000.jpg#0\ta dog", "nothing", "0001.jpg#0\ta cat", "", "0000.jpg#1\ta d\xf6g", "#0\tno name"]
    (folder / "a.token").write_bytes("\r\n".join(lines).encode("latin-1"))
    marker = imported(folder / "a.token", tmp_path / "out")
    assert (ignored(marker), marker["seen"]["count"], adds_up(marker)) == ({"line_unreadable": 2}, 5, True)
    assert counts(marker["bad_captions"]) == {"caption_not_utf8": 1}
    assert [sample.caption for sample in pairs(tmp_path / "out")] == ["a dog", "a cat"]


def test_captions_that_no_text_can_hold_are_counted(tmp_path: Path) -> None:
    folder = in_folder(tmp_path / "in", 1)
    captions = ['"\\ud800 lone"', '"\\udcc3\\udca9 pair"', '"nul \\u0000 inside"', "[]", "{}", "null", '["a", 5]']
    lines = [f'{{"image": "0000.jpg", "caption": {caption}}}' for caption in captions]
    (folder / "a.jsonl").write_text("\n".join(lines))
    marker = imported(folder / "a.jsonl", tmp_path / "out")
    assert counts(marker["bad"]) == {"caption_missing": 2, "caption_no_text": 2, "caption_not_utf8": 2}
    assert [sample.caption for sample in pairs(tmp_path / "out")] == ["nul inside"]


def test_cells_of_parquet_that_python_cannot_hold_cost_their_row_only(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    raw = pa.array([b"a dog", b"caf\xe9", b"a cat"]).cast(pa.binary())
    broken = pa.StringArray.from_buffers(3, raw.buffers()[1], raw.buffers()[2])
    when = pa.array([0, 2**62, 1], pa.timestamp("ms"))
    table = pa.table({"image": [jpeg(n) for n in range(3)], "caption": broken, "when": when})
    pq.write_table(table, tmp_path / "in/a.parquet")
    marker = imported(tmp_path / "in/a.parquet", tmp_path / "out")
    assert counts(marker["bad"]) == {"caption_not_utf8": 1}
    assert [sample.meta["when"] for sample in pairs(tmp_path / "out")] == [
        "1970-01-01T00:00:00",
        "1970-01-01T00:00:00.001000",
    ]


def test_rows_of_csv_that_cannot_be_read_are_counted_and_long_ones_noted(tmp_path: Path) -> None:
    folder = in_folder(tmp_path / "in", 3)
    rows = [
        "image,caption,n",
        "0000.jpg,a dog,1",
        "0001.jpg",
        f"0001.jpg,{'x' * 200_000},1",
        "",
        '0001.jpg,"a',
        'cat",2',
    ]
    (folder / "a.csv").write_text("\n".join(rows))
    marker = imported(folder / "a.csv", tmp_path / "out")
    assert counts(marker["bad"]) == {"row_unreadable": 2}
    assert marker["notes"] == ["1 rows hold line ends, the first up to line 7: check that each quote there has its end"]
    assert [sample.meta["source_row"] for sample in pairs(tmp_path / "out")] == ["a.csv line 2", "a.csv line 7"]


def test_the_delimiter_of_a_csv_is_an_option_and_the_message_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = in_folder(tmp_path / "in", 2)
    (folder / "a.csv").write_text("image;caption\n0000.jpg;a dog, a cat\n0001.jpg;two; or three\n")
    assert main(["import", str(folder / "a.csv"), str(tmp_path / "out")]) == UserError.exit_code
    assert "or add --delimiter ';', which its header seems to have" in capsys.readouterr().err
    imported(folder / "a.csv", tmp_path / "out", "--delimiter", ";")
    assert [sample.caption for sample in pairs(tmp_path / "out")] == ["a dog, a cat", "two; or three"]
    (folder / "b.csv").write_text("image\tcaption\n0000.jpg\ta dog\n")
    assert imported(folder / "b.csv", tmp_path / "tab", "--delimiter", "tab")["samples"] == 1
    assert main(["import", str(folder / "b.csv"), str(tmp_path / "no"), "--delimiter", ";;"]) == UserError.exit_code
    assert "is no single character" in capsys.readouterr().err


def test_a_pair_keeps_the_path_the_row_and_the_other_columns(tmp_path: Path) -> None:
    folder = in_folder(tmp_path / "in", 1)
    header = "image,caption,score,id,zip,empty,uid,source_path,long"
    (folder / "a.csv").write_text(f"{header}\n0000.jpg,a dog,0.25,7,00501,,42,mine,{'x' * 5000}\n")
    imported(folder / "a.csv", tmp_path / "out")
    (found,) = pairs(tmp_path / "out")
    assert found.meta == {
        "score": 0.25,
        "id": 7,
        "zip": "00501",
        "empty": "",
        "uid": "42",
        "source_path": "0000.jpg",
        "source_row": "a.csv line 2",
        "columns_left_out": ["source_path", "long"],
    }
    assert found.uid == "42"


def test_a_pair_of_a_hugging_face_set_keeps_the_name_of_its_file_and_notes_columns_of_bytes(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    columns = {
        "image": [{"bytes": jpeg(0), "path": "orig/a.jpg"}],
        "text": ["a dog"],
        "thumb": [b"x"],
        "score": [float("nan")],
        "tags": [["a", "b"]],
    }
    pq.write_table(pa.table(columns), tmp_path / "in/train.parquet")
    marker = imported(tmp_path / "in", tmp_path / "out")
    (found,) = pairs(tmp_path / "out")
    assert found.meta == {"score": None, "tags": ["a", "b"], "source_path": "orig/a.jpg", "source_row": "in row 0"}
    assert marker["notes"] == ["columns of bytes are not kept: thumb"]


def test_names_of_any_bytes_are_imported_and_shown_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = in_folder(tmp_path / "in", 1)
    (folder / "0000.jpg").rename(Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.jpg")))
    (folder / "0000.txt").rename(Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.txt")))
    (folder / "two\nlines\x1b[31m.mp4").write_bytes(b"")
    marker = imported(folder, tmp_path / "out")
    assert [sample.meta["source_path"] for sample in pairs(tmp_path / "out")] == ["caf\\udce9.jpg"]
    assert marker["seen"]["ignored"][".mp4"]["example"] == f"{folder}/two\\nlines\\x1b[31m.mp4"
    assert "\x1b[31m" not in capsys.readouterr().out


def lost(read: Any, start: int, stop: int) -> Iterator[ImageRecord]:
    yield from list(read(start, stop))[1:]


@pytest.mark.parametrize("fault", ["a name more is seen", "a record is lost", "a pair is not written", "counted twice"])
def test_an_import_that_does_not_add_up_is_refused_without_a_marker(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = read_loose_images(in_folder(tmp_path / "in", 4), ReaderOptions())
    assert source.seen is not None
    if fault == "a name more is seen":
        object.__setattr__(source.seen, "count", 9)
    elif fault == "a record is lost":
        read = source.read
        object.__setattr__(source, "read", lambda start, stop: lost(read, start, stop))
    elif fault == "a pair is not written":
        write = shard_writer.write_samples
        monkeypatch.setattr(
            shard_writer, "write_samples", lambda s, u, samples, **k: write(s, u, list(samples)[:-1], **k)
        )
    else:
        source.seen.ignored.add(".mp4", "a.mp4")
    said = {"a record is lost": "4 records of folder were to come, 3 came", "a pair is not written": "12 files"}
    with pytest.raises(DataError, match=said.get(fault, "files were seen, but . are accounted for")):
        import_pairs(source, PairImport(str(tmp_path / "out")), Storage(), lambda *_: None, lambda: None)
    assert not (tmp_path / "out/COMMITTED.json").exists()


def test_files_that_come_later_are_in_the_account_of_a_finished_import(tmp_path: Path) -> None:
    folder = in_folder(tmp_path / "in", 2)
    before = imported(folder, tmp_path / "out")
    (folder / "new.mp4").write_bytes(b"")
    assert imported(folder, tmp_path / "out") == {
        **before,
        "seen": {**before["seen"], "count": 5, "ignored": {".mp4": {"count": 1, "example": f"{folder}/new.mp4"}}},
    }
