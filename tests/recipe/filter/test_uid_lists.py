"""Subsets of a pool as DataComp and query engines exchange them, and back as keep lists of the raw shards."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from diht_k8s import open_pairs
from diht_k8s.api.documents import dump
from diht_k8s.api.errors import DataError, UserError
from diht_k8s.api.run import DihtRun
from diht_k8s.recipe.filter.scores import SCHEMA
from diht_k8s.recipe.filter.uid_lists import read_uids, write_keep_lists, write_uids
from diht_k8s.recipe.shards.keep_lists import read_keep_list
from diht_k8s.recipe.shards.storage import Storage
from tests.recipe.filter.shards import filter_with, pair, run_of, tar_of
from tests.site import ROOT

UIDS = ["0123456789abcdef0123456789abcdef", "ffffffffffffffff0000000000000001", "00000000000000010000000000000002"]
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


def test_npy_is_the_sorted_array_that_datacomp_reads(tmp_path: Path) -> None:
    """`apply_filter.py` makes it as here."""
    assert write_uids(Storage(), f"{tmp_path}/list.npy", [*UIDS, UIDS[0]]) == 3
    theirs = np.array([(int(uid[:16], 16), int(uid[16:32], 16)) for uid in UIDS], np.dtype("u8,u8"))
    theirs.sort()
    ours = np.load(tmp_path / "list.npy")
    assert ours.dtype == theirs.dtype
    assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize("name", ["list.npy", "list.parquet"])
def test_written_list_is_read_back(tmp_path: Path, name: str) -> None:
    write_uids(Storage(), f"{tmp_path}/{name}", UIDS)
    assert read_uids(Storage(), f"{tmp_path}/{name}") == set(UIDS)


@pytest.mark.parametrize(
    ("name", "uids", "message"),
    [
        ("list.npy", ["web-1"], r"the uid 'web-1' is not 32 hexadecimal digits: write a list that ends in .parquet"),
        ("list.npy", [UIDS[0].upper()], "is not 32 hexadecimal digits"),
        ("list.txt", UIDS, r"ends in .npy or .parquet"),
    ],
)
def test_uids_that_a_format_cannot_hold_are_refused(tmp_path: Path, name: str, uids: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        write_uids(Storage(), f"{tmp_path}/{name}", uids)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.npy", b""),
        ("list.npy", b"no array"),
        ("list.npy", np.arange(3)),
        ("list.npy", np.zeros((2, 2), "u8,u8")),
        ("list.npy", np.array([{"a": 1}])),
        ("list.parquet", b"PAR1"),
    ],
)
def test_files_that_are_no_lists_are_data_errors(tmp_path: Path, name: str, content: Any) -> None:
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        np.save(tmp_path / name, content, allow_pickle=True)
    with pytest.raises(DataError, match=f"{name} is no list of uids"):
        read_uids(Storage(), f"{tmp_path}/{name}")


def test_selection_becomes_keep_lists_whose_pairs_a_training_reads(tmp_path: Path, run: DihtRun) -> None:
    lists = f"{tmp_path}/lists"
    assert write_keep_lists(run, ["a-0", "a-2", "a-3", "nowhere"], lists) == 2  # a-0 is bad
    assert Storage().names(lists) == ["web-a.parquet"]
    assert read_keep_list(Storage(), f"{lists}/web-a.parquet") == [(2, "a-2"), (3, "a-3")]
    assert [sample["__key__"] for sample in open_pairs(run, keep_lists=lists)] == ["a2", "a3"]
    with pytest.raises(ValueError, match="leave out labels or keep_lists"):
        open_pairs(run, labels=True, keep_lists=lists)


def test_scores_are_the_documented_table(run: DihtRun) -> None:
    """`docs/reference/scores.md` names each column with its type."""
    lines = (ROOT / "docs/reference/scores.md").read_text().splitlines()
    documented = {cells[1].strip(" `"): cells[2].strip(" `") for line in lines if len(cells := line.split("|")) == 5}
    kinds = {field.name: str(field.type).replace("item: ", "") for field in SCHEMA}
    assert {name: kind for name, kind in documented.items() if name in kinds} == kinds
    assert pq.read_schema(f"{run.spec.data.output}/filter/scores/web-a.parquet").names == SCHEMA.names


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
