"""Prune on each object store: the same folders go as on disk and our objects alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from diht_k8s.api.documents import load
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.cli.main import main
from diht_k8s.runtime.run_folder import latest_run, run_folder
from tests.folders import filled
from tests.unit.api.documents import changed

if TYPE_CHECKING:
    from pathlib import Path

    from tests.s3.server import S3

pytestmark = pytest.mark.s3
FILES = {"kept/web-0.tar": b"kept", "scores/web-0.parquet": b"scores"}


class Bench:
    """Two runs with a filter each, one with a person's object."""

    def __init__(self, store: S3, name: str) -> None:
        self.store, self.output = store, f"{store.base}/prune/{name}"
        self.storage = store.storage()
        self.one, self.two = self.run("one"), self.run("two")
        self.first = filled(self.one, Stage.FILTER, "one", files=FILES)
        self.second = filled(self.two, Stage.FILTER, "two", files={**FILES, "notes.txt": b"mine"})

    def document(self, name: str) -> str:
        rule = [self.store.rule]
        return json.dumps(changed(metadata__name=name, spec__data__output=self.output, spec__storage=rule))

    def run(self, name: str) -> DihtRun:
        return load(self.document(name), name="test")

    def files(self, place: str) -> list[str]:
        return self.storage.files(f"{self.output}/{place}")


def test_run_and_what_only_it_refers_to_go_and_a_persons_object_stays(
    store: S3, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(store, "whole")
    (tmp_path / "run.json").write_text(bench.document("one"))
    before, run = bench.files(bench.first), run_folder(bench.two).removeprefix(f"{bench.output}/")
    command = ["prune", str(tmp_path / "run.json"), "--keep", "one", "--json"]
    assert main(command) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["removed"], bench.files(bench.second) != []) == (None, True)
    assert main([*command, "--yes"]) == 0
    assert json.loads(capsys.readouterr().out)["removed"] == [run, bench.second]
    assert (bench.files(bench.second), bench.files(run)) == (["notes.txt"], [])
    assert bench.files(bench.first) == before
    assert latest_run(bench.storage, bench.output) == run_folder(bench.one)
