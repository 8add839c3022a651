"""Training on each object store, disturbed: refused, cut and short answers, killed, checkpoints damaged, credentials
expired.

Whatever happens, the training that ends has the weights of an undisturbed one, bit by bit, and an attempt that cannot
resume says why.
"""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from diht_k8s.api.documents import dump
from diht_k8s.api.run import DihtRun
from diht_k8s.data.shards.storage import Storage
from tests.folders import located
from tests.recipe.train.attempts import (
    BATCH,
    FEW_STEPS,
    STEPS,
    TRAIN,
    Attempt,
    attempt,
    different_weights,
    kill_all,
)
from tests.recipe.train.small_run import document, environment, make_data
from tests.s3.faults import Proxy, proxy_before
from tests.s3.server import S3

pytestmark = [pytest.mark.s3, pytest.mark.timeout(1800)]


@pytest.fixture(
    scope="module",
    params=["s3", *(pytest.param(each, marks=[getattr(pytest.mark, each), pytest.mark.slow]) for each in ("gs", "az"))],
)
def store(request: pytest.FixtureRequest) -> S3:
    """A bucket of each object store in turn; those after the first are for `make test-all`."""
    return request.getfixturevalue(request.param)


@dataclass
class Bench:
    """Data on the server, and a proxy before it through which the training reads and writes."""

    store: S3
    proxy: Proxy
    storage: Storage
    folder: Path

    def prepare(self, name: str, **train: Any) -> str:
        """Write the run document; returns the folder of its output."""
        output = f"{self.store.base}/training/{name}"
        folder = self.folder / name
        folder.mkdir()
        body = document(folder, data=self.folder, **{**TRAIN, **train}).model_dump(
            by_alias=True, mode="json", exclude_none=True
        )
        data = f"{self.store.base}/training/data"
        spec = json.loads(json.dumps(body["spec"]).replace(f"{self.folder}/out", data))
        spec["data"]["output"] = output
        spec["storage"] = [{**self.store.rule, "endpointURL": self.proxy.endpoint}]
        (folder / "run.json").write_text(dump(DihtRun.model_validate({**body, "spec": spec})))
        return output

    def checkpoints(self, output: str) -> list[str]:
        """The committed ones, oldest first."""
        folder = located(output, self.storage).checkpoints
        return [
            f"{folder}/{name}"
            for name in self.storage.folders(folder)
            if self.storage.exists(f"{folder}/{name}/COMMITTED.json")
        ]


@pytest.fixture(scope="module")
def bench(store: S3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("training")
    make_data(folder)
    storage = store.storage()
    for path in (folder / "out").rglob("*"):
        if path.is_file():
            place = path.relative_to(folder / "out").as_posix()
            storage.write_bytes(f"{store.base}/training/data/{place}", path.read_bytes())
    with proxy_before(store.endpoint) as proxy:
        yield Bench(store, proxy, storage, folder)


def flip_a_bit(storage: Storage, checkpoint: str) -> None:
    name = next(name for name in storage.names(checkpoint) if name.startswith("state-00001"))
    uri = f"{checkpoint}/{name}"
    content = bytearray(storage.read_bytes(uri))
    content[len(content) // 2] ^= 1
    storage.write_bytes(uri, bytes(content))


def leave_without_marker(storage: Storage, checkpoint: str) -> None:
    """A later checkpoint whose writer was killed between upload and marker."""
    folder, _, name = checkpoint.rpartition("/")
    later = f"{folder}/step-{int(name.removeprefix('step-')) + 1:09d}"
    for part in storage.names(checkpoint):
        if part != "COMMITTED.json":
            storage.write_bytes(f"{later}/{part}", storage.read_bytes(f"{checkpoint}/{part}")[:-50])


@pytest.fixture(scope="module")
def attempts(bench: Bench) -> dict[str, tuple[Attempt, list[str]]]:
    """One training in two attempts; for each how it ended and which checkpoints it left."""
    output = bench.prepare("disturbed", samples=FEW_STEPS * BATCH, loaderWorkers=1)
    folder, found = bench.folder / "disturbed", {}
    bench.proxy.set(refuse=0.1, cut=0.1, short=0.1, seed=1)
    ended = attempt(folder, at_step=18, act=lambda launcher: bench.proxy.set(expired=True), forked=True)
    bench.proxy.set()
    found["expired"] = ended, bench.checkpoints(output)
    flip_a_bit(bench.storage, found["expired"][1][-1])
    leave_without_marker(bench.storage, found["expired"][1][-1])
    bench.proxy.set(refuse=0.1, cut=0.05, slow_s=0.01, seed=2)
    ended = attempt(folder, forked=True)
    bench.proxy.set()
    found["left alone"] = ended, bench.checkpoints(output)
    return found


def test_credentials_when_they_expire_in_the_middle_then_retryable_in_one_line(
    attempts: dict[str, tuple[Attempt, list[str]]],
) -> None:
    expired, checkpoints = attempts["expired"]
    assert expired.code == 75, expired.errors
    line = expired.errors.strip().splitlines()[-1]
    assert re.match(r"diht: (rank \d: )?cannot ", line)
    assert "the credentials have expired" in line
    assert len(checkpoints) >= 2


def test_newest_checkpoint_when_damaged_then_said_so_and_the_one_before_is_used(
    attempts: dict[str, tuple[Attempt, list[str]]],
) -> None:
    checkpoints, following = attempts["expired"][1], attempts["left alone"][0]
    assert (
        f"the checkpoint {checkpoints[-1]} is damaged: the digest of state-00001-000001.safetensors" in following.errors
    )
    assert f"resuming after step {int(checkpoints[-2][-9:])} of {FEW_STEPS} ({checkpoints[-2]})" in following.output


def test_finished_when_disturbed_before_then_bit_equal_to_undisturbed(
    bench: Bench, attempts: dict[str, tuple[Attempt, list[str]]]
) -> None:
    ended, checkpoints = attempts["left alone"]
    assert ended.code == 0, ended.errors
    assert different_weights(f"{bench.store.base}/training/disturbed", FEW_STEPS, bench.storage) == []
    folder = located(f"{bench.store.base}/training/disturbed", bench.storage).checkpoints
    left = [f"{folder}/{name}" for name in bench.storage.folders(folder)]
    half = {uri: names for uri in left if uri not in checkpoints and (names := bench.storage.names(uri))}
    assert half == {}  # SeaweedFS shows the folder of what was removed for a while, empty


def end_after(folder: Path, seconds: float | None) -> tuple[int, str]:
    """Run the stage and kill all of it after so long; its exit code and errors."""
    with (folder / "errors.txt").open("w+") as errors:
        launcher = subprocess.Popen(
            [sys.executable, "-m", "diht_k8s.cli", "stage", "train", "--run", str(folder / "run.json")],
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=environment(),
        )
        try:
            launcher.wait(seconds)
        except subprocess.TimeoutExpired:
            victims = [*psutil.Process(launcher.pid).children(recursive=True), psutil.Process(launcher.pid)]
            for process in victims:
                process.send_signal(signal.SIGKILL)
            launcher.wait()
        errors.seek(0)
        return launcher.returncode, errors.read()


@pytest.mark.slow
def test_killed_at_twenty_random_moments_then_bit_equal_to_undisturbed(bench: Bench) -> None:
    output, folder = bench.prepare("killed", loaderWorkers=1), bench.folder / "killed"
    rng = random.Random(5)
    bench.proxy.set(refuse=0.05, cut=0.05, short=0.05, seed=3)

    def kill_soon(launcher: int) -> None:
        time.sleep(rng.uniform(0, 0.1))
        kill_all(launcher)

    codes = []
    for number in range(20):
        if number % 4 == 3:  # while it starts
            codes.append(end_after(folder, rng.uniform(0.5, 6))[0])
        else:
            saved = bench.checkpoints(output) if codes else []  # before the first attempt the stage has no folder
            done = max((int(checkpoint[-9:]) for checkpoint in saved), default=0)
            codes.append(
                attempt(folder, at_step=min(done + rng.randint(1, 8), STEPS - 5), act=kill_soon, forked=True).code
            )
    assert codes == [-signal.SIGKILL] * 20
    code, errors = end_after(folder, None)
    assert code == 0, errors
    assert different_weights(output, storage=bench.storage) == []
