"""The filter on each object store while workers collide and the server refuses: the same objects."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from diht_k8s.api.errors import DihtError, ExitCode
from diht_k8s.api.layout import Layout
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.runtime import claims
from diht_k8s.runtime.commit import read_committed
from tests.folders import located
from tests.recipe.filter.shards import CAPTIONS, filter_by_two, filter_slowly, filter_with, run_of, write_shards
from tests.s3.faults import proxy_before
from tests.s3.server import S3

pytestmark = pytest.mark.s3
SHARDS = [[f"{caption} {number}" for caption in CAPTIONS] for number in range(6)]


class Bench:
    """Shards on the server, and what an undisturbed run makes of them."""

    def __init__(self, store: S3, folder: Path) -> None:
        self.store = store
        self.storage = store.storage()
        write_shards(folder, SHARDS)
        for path in sorted(folder.iterdir()):
            self.storage.write_bytes(f"{store.base}/kill/{path.name}", path.read_bytes())
        filter_with(self.run("undisturbed"))
        self.wanted = self.objects("undisturbed")

    def run(self, name: str, **rule: Any) -> DihtRun:
        run = run_of(f"{self.store.base}/{name}", f"{self.store.base}/kill/*.tar")
        document = run.model_dump(by_alias=True, mode="json", exclude_none=True)
        document["spec"]["storage"] = [{**self.store.rule, **rule}]
        return DihtRun.model_validate(document)

    def objects(self, name: str) -> Mapping[str, bytes]:
        """Kept shards, scores and report, by name."""
        base = located(f"{self.store.base}/{name}", self.storage).stage(Stage.FILTER)
        paths = [f"{part}/{file}" for part in ("kept", "scores") for file in self.storage.names(f"{base}/{part}")]
        return {path: self.storage.read_bytes(f"{base}/{path}") for path in [*paths, "report.json"]}


@pytest.fixture(scope="module")
def bench(store: S3, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(store, tmp_path_factory.mktemp("shards"))


@pytest.mark.parametrize("workers", [1, 2], ids=["both at all shards", "by claims"])
def test_two_workers_write_the_objects_of_one(bench: Bench, workers: int) -> None:
    run = bench.run(f"two-{workers}")
    assert filter_by_two(run, filter_slowly, workers=workers) == [0, 0]
    assert bench.objects(f"two-{workers}") == bench.wanted


def test_dead_workers_claim_is_taken_over(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "STALE_SECONDS", 1.0)
    run = bench.run("dead")
    undisturbed = read_committed(bench.storage, located(f"{bench.store.base}/undisturbed", bench.storage), Stage.FILTER)
    claim = {
        "owner": "a run",
        "worker": 1,
        "config_sha256": undisturbed.config_sha256,
        "beat": "of one that was killed",
    }
    folder = Layout(run.spec.data.output).at(Stage.FILTER, undisturbed.config_sha256).stage(Stage.FILTER)
    bench.storage.write_bytes(f"{folder}/claims/web-00003.json", json.dumps(claim).encode())
    assert filter_with(run, worker=0, workers=2) is not None
    assert bench.objects("dead") == bench.wanted


def test_output_that_cannot_be_written_is_a_user_error_with_its_place(bench: Bench) -> None:
    output = f"{bench.store.base}/locked"
    document = bench.run("locked").model_dump(by_alias=True, mode="json", exclude_none=True)
    with proxy_before(bench.store.endpoint) as proxy:
        proxy.set(forbidden=True)
        locked = {**bench.store.rule, "prefix": output, "endpointURL": proxy.endpoint}
        document["spec"]["storage"] = [bench.store.rule, locked]
        with pytest.raises(DihtError, match=output) as raised:
            filter_with(DihtRun.model_validate(document))
    assert raised.value.exit_code == ExitCode.USER_ERROR
