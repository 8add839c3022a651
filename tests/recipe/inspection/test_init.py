"""`diht init` on real shards with the real parser: its advice is followed to the letter, and nothing needs an edit."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from diht_k8s.api.documents import load
from diht_k8s.api.errors import DataError, UserError
from diht_k8s.data.shards.samples import read_samples
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples
from tests.recipe.filter.shards import tar_of
from tests.recipe.imports.loose_pairs import drawn, in_folder, jpeg
from tests.recipe.inspection.data import diht, last_command


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def shards(folder: str, count: int, *, suffix: str = "txt", per_shard: int = 30) -> None:
    for start in range(0, count, per_shard):
        pairs = [
            (f"k{n}", {"jpg": jpeg(n), suffix: drawn(n)[1].encode()})
            for n in range(start, min(start + per_shard, count))
        ]
        write_samples(Storage(), f"{folder}/{start:05d}.tar", pairs)


def test_advice_leads_from_a_folder_of_images_to_a_valid_document(capsys: pytest.CaptureFixture[str]) -> None:
    in_folder(Path("photos"), 60)
    code, _, advice = diht(capsys, "diht init photos")
    assert code == UserError.exit_code
    assert "photos holds no shards (*.tar)" in advice
    code, advice, _ = diht(capsys, last_command(advice))
    assert code == 0
    code, advice, _ = diht(capsys, last_command(advice))
    assert code == 0
    assert last_command(advice) == "diht run run.yaml"
    code, said, warned = diht(capsys, "diht validate run.yaml")
    assert (code, warned) == (0, "")
    assert "run photos, stages filter, label, train, evaluate" in said


@pytest.mark.parametrize("place", ["laptop", "gpu-node", "cluster"])
def test_document_for_every_place_validates_and_is_not_replaced_by_itself(
    place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shards("web", 60)
    assert diht(capsys, f"diht init web --for {place} --output a.yaml")[0] == 0
    assert diht(capsys, "diht validate a.yaml")[0] == 0
    code, _, refused = diht(capsys, "diht init web --output a.yaml")
    assert code == UserError.exit_code
    assert "--replace" in refused
    assert diht(capsys, "diht init web --output a.yaml --replace")[0] == 0


def test_held_out_pairs_are_excluded_with_every_copy_of_their_images(capsys: pytest.CaptureFixture[str]) -> None:
    shards("web", 60)
    assert diht(capsys, "diht init web")[0] == 0
    held = list(read_samples(Storage(), "runs/web-held-out/00000.tar"))
    listed = set(Path("runs/web-held-out/exclude.txt").read_text().splitlines())
    raw = [sample for path in sorted(Path("web").iterdir()) for sample in read_samples(Storage(), str(path))]
    assert len(held) == 6
    assert {hashlib.sha256(sample.image).hexdigest() for sample in held} <= listed
    captions = {sample.caption for sample in held}
    assert all(sample.uid in listed for sample in raw if sample.caption in captions)
    before = Path("runs/web-held-out/00000.tar").read_bytes()
    assert diht(capsys, "diht init web --replace")[0] == 0
    assert Path("runs/web-held-out/00000.tar").read_bytes() == before


def test_captions_under_an_unusual_name_are_found_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    shards("web", 60, suffix="caption")
    assert diht(capsys, "diht init web")[0] == 0
    run = load(Path("run.yaml").read_text(), name="run.yaml")
    assert run.spec.data.sources[0].caption_key == "caption"
    assert all(sample.problem is None for sample in read_samples(Storage(), "runs/web-held-out/00000.tar"))


def each(*names: str) -> list[tuple[str, bytes]]:
    """Members of thirty samples; `{n}` in a name is the number of the sample."""
    return [
        (name.format(n=n), jpeg(n) if name.endswith("jpg") else drawn(n)[1].encode())
        for n in range(30)
        for name in names
    ]


MALFORMED: dict[str, tuple[list[tuple[str, bytes]], str]] = {
    "dots in names": (
        each("a.b{n}.jpg", "a.b{n}.txt"),
        "dots in their base names, .*: rename the files, for example a.b.jpg to a_b.jpg",
    ),
    "gif": (
        each("k{n}.gif", "k{n}.txt"),
        "images of the type gif are not read: convert them to PNG, or unpack .* diht import",
    ),
    "images before captions": (
        sorted(each("k{n}.jpg", "k{n}.txt"), key=lambda m: m[0][-3:]),
        "in different places: .*tar --sort=name",
    ),
    "empty tar": ([], "web/0.tar is an empty tar and holds no samples: fetch it again or leave it out"),
    "no suffixes": ([("a", b"x")], "none of its 1 files has a suffix .*: name them KEY.jpg and KEY.txt"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_shards_are_told_apart_with_what_to_do(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    members, said = MALFORMED[case]
    Path("web").mkdir()
    Path("web/0.tar").write_bytes(tar_of(members))
    code, _, problem = diht(capsys, "diht init web")
    assert code == DataError.exit_code
    assert re.search(said, problem), problem


def test_a_folder_in_place_of_a_shard_is_named_with_a_pattern_that_works(capsys: pytest.CaptureFixture[str]) -> None:
    shards("web/0.tar", 60)
    code, _, problem = diht(capsys, "diht init web/*.tar")
    assert code == UserError.exit_code
    advised = re.search(r"web/0.tar is a folder, not a shard: name the files in it, for example (\S+)", problem)
    assert advised is not None
    pattern = str(Path(advised[1]).relative_to(Path.cwd())) if advised[1].startswith("/") else advised[1]
    assert diht(capsys, f"diht init {pattern}")[0] == 0


def test_second_document_does_not_take_the_held_out_pairs_of_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    shards("a/photos", 60)
    shards("b/photos", 90)
    assert diht(capsys, "diht init a/photos --output first.yaml")[0] == 0
    held = {path: path.read_bytes() for path in Path("runs/photos-held-out").iterdir()}
    code, _, said = diht(capsys, "diht init b/photos --output second.yaml")
    assert code == UserError.exit_code
    assert "choose another --name" in said
    assert {path: path.read_bytes() for path in Path("runs/photos-held-out").iterdir()} == held
    assert not Path("second.yaml").exists()
    assert diht(capsys, "diht init a/photos --output third.yaml")[0] == 0, "the same data"
    assert diht(capsys, "diht init b/photos --output second.yaml --name other")[0] == 0


@pytest.mark.parametrize("output", ["folder", "file.txt/run.yaml"])
def test_document_that_cannot_be_written_is_refused_before_anything_is(
    output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shards("photos", 60)
    Path("folder").mkdir()
    Path("file.txt").write_text("")
    code, _, said = diht(capsys, f"diht init photos --output {output} --replace")
    assert code == UserError.exit_code
    assert "is no file in a folder" in said
    assert not Path("runs").exists()


def test_folder_whose_name_is_a_pattern_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    shards("photos[new]", 60)
    code, _, said = diht(capsys, "diht init photos[new]")
    assert (code, "rename the folder" in said) == (UserError.exit_code, True)
