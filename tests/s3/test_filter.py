"""The filter against each object store gives what it gives from disk, byte for byte."""

from __future__ import annotations

import gzip
from itertools import islice
from pathlib import Path

import pytest

from diht_k8s.data.shards import range_reads
from diht_k8s.data.shards.samples import Sample, read_samples
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.filter.scores import open_scores
from tests.folders import located
from tests.recipe.evaluate.small_run import export_model
from tests.recipe.filter.shards import filter_with, run_of, tar_of
from tests.s3.documents import with_storage
from tests.s3.faults import proxy_before
from tests.s3.server import S3

pytestmark = pytest.mark.s3
DEMO = Path(__file__).parents[2] / "examples/data/train"
PAIRS = 60
BLOCK = 32 << 10
"""Few bytes, so that a small shard takes many requests."""
SHARDS = ("00000.tar.gz", "00001.tar.gz")
RULES = {"textSpotting": {"mode": "Drop", "detectorSize": 96}}


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first pairs of two of the demo's shards."""
    folder = tmp_path_factory.mktemp("raw")
    for name in SHARDS:
        samples = islice(read_samples(Storage(), str(DEMO / name)), PAIRS)
        (folder / name).write_bytes(
            gzip.compress(tar_of(member for sample in samples for member in members_of(sample)))
        )
    return folder


@pytest.fixture(scope="module")
def uploaded(store: S3, local: Path) -> S3:
    storage = store.storage()
    for name in SHARDS:
        storage.write_bytes(f"{store.base}/raw/{name}", (local / name).read_bytes())
    return store


def members_of(sample: Sample) -> list[tuple[str, bytes]]:
    return [(f"{sample.key}.{suffix}", data) for suffix, data in sample.members.items()]


def test_kept_shards_and_scores_when_the_server_disturbs_then_those_from_disk(
    uploaded: S3, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(range_reads, "BLOCK_BYTES", BLOCK)
    monkeypatch.setattr(range_reads, "MIN_BLOCK_BYTES", BLOCK)
    output = f"{uploaded.base}/out"
    with proxy_before(uploaded.endpoint) as proxy:
        counts = proxy.set(refuse=0.15, cut=0.2, short=0.2, seed=1).counts
        rule = {**uploaded.rule, "endpointURL": proxy.endpoint}
        there = filter_with(with_storage(run_of(output, f"{uploaded.base}/raw/*.tar.gz", RULES), rule))
    assert counts["refused"] > 0
    assert counts["cut"] + counts["short"] > 0
    here = filter_with(run_of(tmp_path / "out", [str(local / name) for name in SHARDS], RULES))
    assert there is not None
    assert here is not None
    for name in ("counts", "shards"):
        assert there.summary[name] == here.summary[name]
    storage = uploaded.storage()
    layout = located(output, storage)
    for shard in ("web-00000", "web-00001"):
        kept = storage.read_bytes(layout.kept(shard))
        assert kept == (tmp_path / f"out/runs/latest/filter/kept/{shard}.tar").read_bytes()
        uri, path = (
            layout.scores(shard),
            tmp_path / f"out/runs/latest/filter/scores/{shard}.parquet",
        )
        theirs, ours = open_scores(storage.read_bytes(uri), uri), open_scores(path.read_bytes(), str(path))
        assert theirs.file.read().equals(ours.file.read())  # the headers name ETags there and times here
        assert theirs.header["summary"] == ours.header["summary"]


def test_clip_model_on_s3_cuts_the_pool_where_a_local_copy_does(uploaded: S3, local: Path, tmp_path: Path) -> None:
    export_model(tmp_path / "clip")
    storage, model = uploaded.storage(), f"{uploaded.base}/clip"
    for path in (tmp_path / "clip").iterdir():
        storage.write_bytes(f"{model}/{path.name}", path.read_bytes())
    shards, output = f"{uploaded.base}/raw/00000.tar.gz", f"{uploaded.base}/clip-out"
    rules = {"clipScore": {"model": model, "keepShare": 0.3}}
    there = filter_with(with_storage(run_of(output, shards, rules), uploaded.rule))
    copied = {"clipScore": {"model": f"{tmp_path}/clip", "keepShare": 0.3}}
    here = filter_with(run_of(tmp_path / "out", str(local / SHARDS[0]), copied))
    assert there is not None
    assert here is not None
    assert there.summary["counts"] == here.summary["counts"]
    assert there.summary["counts"]["dropped"]["clip_share"] > 0
    assert there.config["programs"] == here.config["programs"]
    kept = storage.read_bytes(located(output, storage).kept("web-00000"))
    assert kept == (tmp_path / "out/runs/latest/filter/kept/web-00000.tar").read_bytes()


def test_second_run_is_cached(uploaded: S3, capsys: pytest.CaptureFixture[str]) -> None:
    run = with_storage(run_of(f"{uploaded.base}/again", f"{uploaded.base}/raw/00000.tar.gz"), uploaded.rule)
    assert filter_with(run) == filter_with(run)
    assert "filter: cached" in capsys.readouterr().out
