"""`diht doctor`: planted faults are each named in one sentence, and sound data in none."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from diht_k8s.cli.onboarding import doctor
from diht_k8s.cli.placement import Machine
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples
from diht_k8s.inspection import storage_checks
from tests.recipe.imports.loose_pairs import drawn, jpeg
from tests.recipe.inspection.data import diht

Plant = Callable[[pytest.MonkeyPatch], None]


def pairs(start: int, count: int) -> list[tuple[str, dict[str, bytes]]]:
    return [(f"k{n}", {"jpg": jpeg(n), "txt": drawn(n)[1].encode()}) for n in range(start, start + count)]


def document(**spec: Any) -> dict[str, Any]:
    train = {"model": "ViT-B-32", "samples": 640, "batchSize": 16, "distillation": {"mode": "Disabled"}}
    found = {
        "data": {"sources": [{"name": "web", "shards": ["web/*.tar"]}], "output": "runs/out"},
        "train": train,
        **spec,
    }
    return {"apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "metadata": {"name": "small"}, "spec": found}


def write(**spec: Any) -> None:
    Path("run.yaml").write_text(yaml.safe_dump(document(**spec)))


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for shard in range(2):
        write_samples(Storage(), f"web/{shard}.tar", pairs(30 * shard, 30))
    write()


def found(capsys: pytest.CaptureFixture[str], target: str) -> tuple[int, list[str]]:
    code, out, _ = diht(capsys, f"diht doctor {target} --json")
    return code, [finding["says"] for finding in json.loads(out)["findings"] if finding["wrong"]]


@pytest.mark.parametrize("target", ["run.yaml", "web", "web/*.tar"])
def test_sound_data_has_nothing_wrong(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert found(capsys, target) == (0, [])
    assert not list(Path().rglob(f"{storage_checks.PROBE}*"))


def typo(_: pytest.MonkeyPatch) -> None:
    Path("run.yaml").write_text(Path("run.yaml").read_text().replace("batchSize", "batchsize"))


def no_shards(_: pytest.MonkeyPatch) -> None:
    shutil.rmtree("web")


def folder(_: pytest.MonkeyPatch) -> None:
    Path("web/3.tar").mkdir()


def empty(_: pytest.MonkeyPatch) -> None:
    write_samples(Storage(), "web/2.tar", [])


def cut(_: pytest.MonkeyPatch) -> None:
    Path("web/1.tar").write_bytes(Path("web/1.tar").read_bytes()[:20_000])


def bad_sample(_: pytest.MonkeyPatch) -> None:
    write_samples(Storage(), "web/2.tar", [*pairs(60, 3), ("broken", {"jpg": jpeg(1)[:200], "txt": b"a dog runs"})])


def gifs(_: pytest.MonkeyPatch) -> None:
    write_samples(Storage(), "web/2.tar", [(f"g{n}", {"gif": b"GIF89a", "txt": b"a dog"}) for n in range(3)])


def apart(_: pytest.MonkeyPatch) -> None:
    images, texts = ([(key, {suffix: data[suffix]}) for key, data in pairs(60, 3)] for suffix in ("jpg", "txt"))
    write_samples(Storage(), "web/2.tar", [*images, *texts])


def no_folder(_: pytest.MonkeyPatch) -> None:
    Path("runs").write_text("a file")


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    write(filter={})
    monkeypatch.setattr(storage_checks.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))


def twice(monkeypatch: pytest.MonkeyPatch) -> None:
    def create(self: Storage, uri: str, data: bytes) -> bool:
        self.write_bytes(uri, data)
        return True

    monkeypatch.setattr(Storage, "create", create)


def no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor.installed_version
    monkeypatch.setattr(doctor, "installed_version", lambda name: None if name == "timm" else real(name))


def old_package(monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor.installed_version
    monkeypatch.setattr(doctor, "installed_version", lambda name: "9.0" if name == "pillow" else real(name))


def unseen_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_listed_gpus", lambda: 2)
    monkeypatch.setattr(doctor, "_seen_gpus", lambda: 0)


def large_batch(_: pytest.MonkeyPatch) -> None:
    write(train={"model": "ViT-B-32", "samples": 64000, "distillation": {"mode": "Disabled"}})


def small_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "this_machine", lambda: Machine(2, 8.0, 0, "T4"))
    vision = {"image_size": 32, "layers": 1, "width": 1 << 14, "head_width": 32, "patch_size": 8}
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    model = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}
    train = {"modelConfig": model, "samples": 640, "batchSize": 2, "precision": "fp16"}
    write(train={**train, "distillation": {"mode": "Disabled"}})


FAULTS: dict[str, tuple[Plant, str]] = {
    "typo": (typo, r"run.yaml: line \d+: spec.train.batchsize: unknown key; did you mean batchSize\?"),
    "no shards": (no_shards, r"no shard matches web/\*.tar: check the path"),
    "folder": (folder, r"3.tar is a folder, not a shard: name the files in it"),
    "empty tar": (empty, r"2.tar is an empty tar and holds no samples: fetch it again"),
    "cut shard": (cut, r"1.tar is damaged after \d+ samples .*: fetch it again"),
    "bad sample": (bad_sample, r"the first one is broken in .*2.tar \(picture_unreadable\)"),
    "gif": (gifs, r"images of the type gif are not read: convert them"),
    "images before captions": (apart, r"3 keys have image and caption in different places: .*tar --sort=name"),
    "output": (no_folder, r"cannot write runs/out/.*: check rights"),
    "full disk": (full_disk, r"0.0 GiB are free at .*, but the kept pairs may need"),
    "no conditional writes": (twice, r"runs/out: the server ignores conditional writes"),
    "missing package": (no_package, r"timm is not installed: pip install .*\[recipe\]"),
    "old package": (old_package, r"pillow 9.0 is installed, but >=12.3 is needed"),
    "unseen GPUs": (unseen_gpus, r"the driver lists 2 GPUs, but torch sees 0: install the CUDA build"),
    "small GPU": (small_gpu, r"run.yaml: the training needs [\d.]+ GiB of a T4's 15.0"),
    "large batch": (large_batch, r"spec.train.batchSize: 32768 is more than the \d+ pairs"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_named(
    fault: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plant, said = FAULTS[fault]
    plant(monkeypatch)
    code, sentences = found(capsys, "run.yaml")
    assert code == 64
    assert [sentence for sentence in sentences if re.search(said, sentence)], sentences
    assert len(sentences) <= 2
    assert all("\n" not in sentence for sentence in sentences)


def test_doctor_without_a_target_checks_the_machine_and_prints_a_line_for_each(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, _ = diht(capsys, "diht doctor")
    assert code == 0
    assert [line.split(":")[0] for line in out.splitlines()] == ["ok    versions", "ok    devices"]


def test_tables_of_captions_are_looked_at_in_place_of_shards(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.csv").write_text("url,text\nhttp://127.0.0.1/a,a dog\nhttp://127.0.0.1/b,\n")
    Path("b.csv").write_text("link,text\nhttp://127.0.0.1/a,a dog\n")
    tables = {"name": "pool", "captions": ["a.csv"]}
    write(data={"sources": [tables], "output": "runs/out"}, filter={}, train=None)
    code, (says,) = found(capsys, "run.yaml")
    assert code == 64
    assert says.startswith("1 of the first 2 rows cannot be used (1 caption_empty): raise filter.maxBadPercent")
    write(data={"sources": [{**tables, "captions": ["{a,b}.csv"]}], "output": "runs/out"}, filter={}, train=None)
    assert "b.csv has no column of URLs" in found(capsys, "run.yaml")[1][0]
    write(data={"sources": [tables], "output": "runs/out"}, filter={"maxBadPercent": 50}, train=None)
    assert found(capsys, "run.yaml") == (0, [])
