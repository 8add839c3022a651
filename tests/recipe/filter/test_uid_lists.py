"""Subsets of a pool: the uids of the kept pairs for DataComp's tools, and keep lists by other programs."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from diht_k8s import open_pairs
from diht_k8s.api.documents import dump
from diht_k8s.api.run import DihtRun
from diht_k8s.cli.main import main
from diht_k8s.data.shards.pairs import KeepListRow, write_keep_list
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.filter.scores import SCHEMA
from tests.recipe.filter.shards import filter_with, pair, run_of, tar_of
from tests.site import ROOT

UIDS = ["ffffffffffffffff0000000000000001", "0123456789ABCDEF0123456789abcdef", "00000000000000010000000000000002"]
CAPTIONS = ("a red car", "a small dog chasing a red ball", "server", "a man riding a brown horse on the beach")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> DihtRun:
    """Two shards of which the filter has scores; the first pair of each has no image."""
    folder = tmp_path_factory.mktemp("pool")
    for shard in "ab":
        members = [pair(f"{shard}{i}", caption, uid=f"{shard}-{i}") for i, caption in enumerate(CAPTIONS)]
        (folder / f"{shard}.tar").write_bytes(
            tar_of([member for each in [members[0][1:], *members[1:]] for member in each])
        )
    run = run_of(folder / "out", f"{folder}/*.tar", {"maxBadPercent": 50})
    filter_with(run)
    return run


def uids_of(run: DihtRun, folder: Path) -> int:
    """`diht uids` of a run, to list.npy."""
    (folder / "run.json").write_text(dump(run))
    return main(["uids", str(folder / "run.json"), "--output", str(folder / "list.npy")])


def test_uids_of_kept_pairs_are_the_sorted_array_that_datacomp_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`apply_filter.py` makes it as here; the pair with the last uid is dropped, and one uid stands twice."""
    captions = (CAPTIONS[1], CAPTIONS[3], CAPTIONS[2], CAPTIONS[3])
    members = [pair(f"k{i}", caption, uid=UIDS[i % 3]) for i, caption in enumerate(captions)]
    (tmp_path / "a.tar").write_bytes(tar_of([member for each in members for member in each]))
    run = run_of(tmp_path / "out", f"{tmp_path}/a.tar", {})
    filter_with(run)
    assert uids_of(run, tmp_path) == 0
    assert capsys.readouterr().out.endswith("list.npy: 2 uids\n")
    theirs = np.array([(int(uid[:16], 16), int(uid[16:32], 16)) for uid in UIDS[:2]], np.dtype("u8,u8"))
    theirs.sort()
    ours = np.load(tmp_path / "list.npy")
    assert ours.dtype == theirs.dtype
    assert ours.tolist() == theirs.tolist()


def test_uids_that_the_list_cannot_hold_are_refused(
    tmp_path: Path, run: DihtRun, capsys: pytest.CaptureFixture[str]
) -> None:
    assert uids_of(run, tmp_path) == 64
    assert "the uid 'a-1' in " in capsys.readouterr().err
    assert not (tmp_path / "list.npy").exists()


def test_pairs_of_keep_lists_are_read_by_a_training(tmp_path: Path, run: DihtRun) -> None:
    lists = f"{tmp_path}/lists"
    write_keep_list(Storage(), f"{lists}/web-a.parquet", [KeepListRow(2, "a-2"), KeepListRow(3, "a-3")])
    assert [sample["__key__"] for sample in open_pairs(run, keep_lists=lists)] == ["a2", "a3"]
    with pytest.raises(ValueError, match="leave out labels or keep_lists"):
        open_pairs(run, labels=True, keep_lists=lists)


def test_scores_are_the_documented_table(run: DihtRun) -> None:
    """`docs/reference/scores.md` names each column with its type."""
    lines = (ROOT / "docs/reference/scores.md").read_text().splitlines()
    documented = {cells[1].strip(" `"): cells[2].strip(" `") for line in lines if len(cells := line.split("|")) == 5}
    kinds = {field.name: str(field.type).replace("item: ", "") for field in SCHEMA}
    assert {name: kind for name, kind in documented.items() if name in kinds} == kinds
    assert pq.read_schema(f"{run.spec.data.output}/runs/latest/filter/scores/web-a.parquet").names == SCHEMA.names


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="no Ray: pip install -r examples/engines/requirements.txt"
)
def test_example_with_ray_selects_over_the_whole_pool_and_writes_keep_lists(tmp_path: Path, run: DihtRun) -> None:
    document = tmp_path / "run.json"
    document.write_text(dump(run))
    command = [
        sys.executable,
        "examples/engines/top_by_complexity.py",
        str(document),
        "--share",
        "0.7",
        "--lists",
        f"{tmp_path}/lists",
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert json.loads(done.stdout.splitlines()[-1]) == {"minimum": 1, "pairs": 4}
    assert [sample["__key__"] for sample in open_pairs(run, keep_lists=f"{tmp_path}/lists")] == ["a1", "a3", "b1", "b3"]
