"""Identity of a training besides its own fields."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from diht_k8s.api.documents import dump
from diht_k8s.api.errors import ComputedElsewhere, DataError, RetryableError, StopRequested, UserError
from diht_k8s.api.hashing import sha256_of
from diht_k8s.api.layout import DIGITS, Layout
from diht_k8s.api.pods import NODE_VARIABLE
from diht_k8s.api.reports import Cause, NodeResult
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.lease import BEAT_SECONDS, STALE_SECONDS, Owner
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime import launcher
from diht_k8s.runtime.commit import commit, start
from diht_k8s.runtime.progress import Reporter
from diht_k8s.runtime.signals import StopFlag
from diht_k8s.runtime.stage import Context, exit_code_of
from diht_k8s.stages.train.shorter_sibling import offer_shorter_sibling
from diht_k8s.stages.train.stage import check_pod, execute, held_lease, identify, lease_of, wait_until_free
from tests.folders import flat
from tests.unit.api.documents import TRAIN, changed, run_over

MODEL = {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}}


def weights_of(folder: Path, weights: list[float], **train: Any) -> str | None:
    """What the sources' weights add to the training's inputs."""
    sources = []
    for number, weight in enumerate(weights):
        (folder / f"{number}.tar").write_bytes(b"")
        sources.append({"name": f"s{number}", "shards": [str(folder / f"{number}.tar")], "weight": weight})
    body = {"modelConfig": MODEL, "samples": 1, "distillation": {"mode": "Disabled"}, **train}
    run = DihtRun.model_validate(
        changed(spec={"data": {"sources": sources, "output": str(folder / "out")}, "train": body})
    )
    return identify(run, Storage(), Layout("out"))[0].get("weights")


@pytest.mark.parametrize(
    ("weights", "expected"), [([1, 1], None), ([3, 3], None), ([1, 2.5], "s0 1, s1 2.5"), ([4, 2], "s0 2, s1 1")]
)
def test_weights_when_they_differ_then_they_tell_the_training_apart_by_their_ratio(
    tmp_path: Path, weights: list[float], expected: str | None
) -> None:
    assert weights_of(tmp_path, weights) == expected


def test_weights_when_far_apart_then_refused(tmp_path: Path) -> None:
    assert weights_of(tmp_path, [1, 100]) == "s0 1, s1 100"
    with pytest.raises(UserError, match=r"data.sources\[\].weight: 101 is more than 100 times 1"):
        weights_of(tmp_path, [1, 101])


def test_weights_when_the_training_has_shards_of_its_own_then_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.sources\[\].weight does not go with train.shards"):
        weights_of(tmp_path, [1, 2], shards=[str(tmp_path / "0.tar")])


def test_weights_when_shards_of_its_own_are_all_there_is_then_none(tmp_path: Path) -> None:
    (tmp_path / "own.tar").write_bytes(b"")
    assert weights_of(tmp_path, [], shards=[str(tmp_path / "own.tar")]) is None


@pytest.mark.parametrize("mode", ["Concepts", "Disabled"])
def test_labels_without_embeddings_when_these_are_asked_for_then_refused(tmp_path: Path, mode: str) -> None:
    (tmp_path / "own.tar").write_bytes(b"")
    for name, teacher in (("with", {"textEmbeddings": True}), ("without", {})):
        layout = Layout("out").with_folder(Stage.LABEL, str(tmp_path / name))
        commit(Storage(), layout, Stage.LABEL, {"inputs": {}, "config": {"teacher": teacher}}, [], {})

    def identified(name: str) -> None:
        distillation = {"mode": mode, "embeddings": {}}
        own = [str(tmp_path / "own.tar")]
        weights_of(tmp_path, [], shards=own, labels=str(tmp_path / name), distillation=distillation)

    identified("with")
    with pytest.raises(
        UserError, match=r"without hold no embeddings: run their stage with label.teacher.textEmbeddings"
    ):
        identified("without")


HOST = socket.gethostname()
GPUS = 99
"""More than a machine has."""


def context(folder: Path, **pods: Any) -> Any:
    return context_of({}, str(folder), pods=pods)


@pytest.fixture(autouse=True)
def _in_a_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv(NODE_VARIABLE, "gpu-9")


def test_pod_that_has_what_it_needs_tells_what_it_measured(tmp_path: Path) -> None:
    found = check_pod(context(tmp_path), 1)
    assert (found.node, found.pod, found.problem) == ("gpu-9", HOST, "")
    assert found.output_seconds is not None
    assert 0 < found.output_seconds < 60
    assert found.shared_memory_mib
    assert list((tmp_path / "train").iterdir()) == []


def test_machine_outside_a_cluster_is_its_own_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NODE_VARIABLE)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST")
    found = check_pod(context(tmp_path, resources={"nvidia.com/gpu": GPUS}), 1)
    assert (found.node, found.pod, found.shared_memory_mib) == (HOST, HOST, None)


def test_fault_of_the_node_is_named_with_it_in_the_cause_of_the_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIHT_TERMINATION_LOG", str(tmp_path / "cause"))
    given = context(tmp_path, resources={"nvidia.com/gpu": GPUS})
    assert exit_code_of(lambda: check_pod(given, 1)) == 75
    cause = Cause.model_validate_json((tmp_path / "cause").read_text())
    [node] = cause.preflight
    assert (node.node, node.pod, node.problem) == ("gpu-9", HOST, cause.message)
    assert f"pod {HOST} sees " in node.problem


def test_wrong_run_document_is_no_fault_of_the_node(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"processesPerNode {GPUS + 1} is more than the {GPUS} GPUs") as raised:
        check_pod(context(tmp_path, resources={"nvidia.com/gpu": GPUS}), GPUS + 1)
    assert dict(raised.value.details) == {}


def test_long_problem_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> float:
        raise RetryableError("x" * 999)

    monkeypatch.setattr("diht_k8s.stages.train.stage.check_output", fails)
    with pytest.raises(RetryableError) as raised:
        check_pod(context(tmp_path), 1)
    assert len(raised.value.details["preflight"][0].problem) == 256


@pytest.mark.parametrize(
    ("node", "pod", "words"),
    [("gpu-9", "a-train-1-3", "gpu-9 (pod a-train-1-3)"), ("laptop", "laptop", "laptop"), ("gpu-9", "", "gpu-9")],
)
def test_node_is_called_by_its_own_name_and_its_pods(node: str, pod: str, words: str) -> None:
    assert NodeResult(node=node, pod=pod).label == words


FEW = r"train.batchSize must be at least 2 and numNodes x processesPerNode, .* \({} pairs, {} processes\)"


@pytest.mark.parametrize(
    ("batch", "nodes", "processes", "message"),
    [
        pytest.param(4, 5, 1, FEW.format(4, 5), id="more nodes than pairs"),
        pytest.param(7, 2, 4, FEW.format(7, 8), id="more processes than pairs"),
        pytest.param(32, 2, 1, "DIHT_MASTER is not set: a gang of several nodes", id="two nodes without a name"),
    ],
)
def test_gang_when_its_shape_is_wrong_then_refused_before_ranks_start(
    monkeypatch: pytest.MonkeyPatch, batch: int, nodes: int, processes: int, message: str
) -> None:
    monkeypatch.setenv("DIHT_NUM_NODES", str(nodes))
    for name in ("DIHT_MASTER", "DIHT_PROCESSES"):
        monkeypatch.delenv(name, raising=False)
    context = context_of({"batchSize": batch, "processesPerNode": processes}, "s3://bucket/out")
    with pytest.raises(UserError, match=message):
        execute(context)


def context_of(train: dict[str, Any], output: str, **spec: Any) -> Any:
    run = run_over("s3://bucket/0.tar", output, train={**TRAIN, **train}, **spec)
    parts = {
        "config": {},
        "progress": Reporter(Stage.TRAIN),
        "stop": StopFlag(),
        "layout": flat(output),
        "owner": Owner("a"),
        "step": "",
    }
    return cast("Any", SimpleNamespace(run=run, storage=Storage(), **parts))


@pytest.mark.parametrize(("policy", "waits_s"), [({}, 660), ({"schedulingTimeoutSeconds": 3600}, 3660)])
def test_gang_waits_for_its_peers_for_longer_than_the_operator_lets_it_be_without_all_its_nodes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, policy: dict[str, Any], waits_s: float
) -> None:
    waits = list[float]()

    def gives_up(hosts: tuple[str, ...], *, stop: StopFlag, timeout_s: float) -> None:
        waits.append(timeout_s)
        raise RetryableError("no address")

    gang = {"DIHT_NUM_NODES": "2", "DIHT_MASTER": "a-0.a", "DIHT_PEER_HOSTS": "a-*.a"}
    monkeypatch.setattr(os, "environ", {**os.environ, **gang})
    monkeypatch.setattr(launcher, "wait_for_hosts", gives_up)
    with pytest.raises(RetryableError):
        execute(context_of({"numNodes": 2}, str(tmp_path), failurePolicy=policy))
    assert waits == [waits_s]


UID = "a0b1c2d3-0000-4000-8000-0123456789ab"


def gang(folder: Path, owner: str) -> Context:
    run, reporter, flag = run_over("/in/0.tar", "/out", filter={}), Reporter(Stage.TRAIN), StopFlag()
    return Context(run, Stage.TRAIN, Storage(), flat(folder), {"inputs": {}}, reporter, flag, owner=Owner(owner))


def complete(context: Context) -> None:
    context.storage.write_bytes(context.layout.committed(Stage.TRAIN), b"{}")


@pytest.mark.parametrize(
    ("holder", "says"),
    [(UID, f"run {UID}"), ("process 1 2 3", "another run"), (f"{UID} b", "another run")],
    ids=["of a cluster", "of a laptop", "of somebody who may write anything"],
)
def test_gang_that_finds_a_living_one_leaves_and_tells_its_uid(tmp_path: Path, holder: str, says: str) -> None:
    other = lease_of(gang(tmp_path, holder))
    other.take()
    with pytest.raises(ComputedElsewhere, match=f"computed by {says}:") as raised:
        held_lease(gang(tmp_path, "2"), lambda _: other.write()).__enter__()
    assert raised.value.exit_code == 75


def test_training_that_is_completed_while_a_gang_watches_is_not_begun_again(tmp_path: Path) -> None:
    other = gang(tmp_path, "1")
    with ExitStack() as stack:
        stack.enter_context(held_lease(other))

        def completes(_: float) -> None:
            stack.close()
            complete(other)

        with pytest.raises(ComputedElsewhere, match="completed"):
            held_lease(gang(tmp_path, "2"), completes).__enter__()
    assert not lease_of(other).is_mine


@pytest.mark.parametrize(
    ("asked", "taken_over", "raises"),
    [(False, True, ComputedElsewhere), (True, True, StopRequested), (False, False, StopRequested)],
    ids=["by another run", "on request", "by the same run"],
)
def test_gang_that_the_fence_stops_says_who_has_taken_over(
    tmp_path: Path, asked: bool, taken_over: bool, raises: type[Exception]
) -> None:
    slow = gang(tmp_path, "1")

    def ranks() -> None:
        slow.stop.requested = asked
        if taken_over:
            lease_of(gang(tmp_path, "2")).write()
        raise StopRequested("attempt 2 has taken over")

    with pytest.raises(raises), held_lease(slow):
        ranks()


@pytest.mark.parametrize("ends", ["free", "dead", "committed"])
def test_waiting_ends_when_the_training_is(tmp_path: Path, ends: str) -> None:
    other, waiting, now = gang(tmp_path, "1"), gang(tmp_path, "2"), 0.0
    wait_until_free(waiting, lambda _: pytest.fail("nobody works"))
    holder = lease_of(other)
    holder.take()

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        if now <= 10 * BEAT_SECONDS:
            holder.write()
        elif ends == "free":
            holder.release()
        elif ends == "committed":
            complete(other)

    wait_until_free(waiting, sleep, lambda: now)
    assert now == 10 * BEAT_SECONDS + (STALE_SECONDS if ends == "dead" else BEAT_SECONDS)


@pytest.mark.parametrize("fails", [True, False], ids=["a gang that fails", "a gang that only has to commit"])
def test_lease_is_given_up_by(tmp_path: Path, fails: bool) -> None:
    with contextlib.suppress(DataError), held_lease(gang(tmp_path, "1")):
        if fails:
            raise DataError("damaged")
    assert (tmp_path / "train/lease.json").exists() is not fails


@pytest.mark.parametrize("wait", [held_lease, wait_until_free])
def test_stop_ends_a_gang_that_watches(tmp_path: Path, wait: Callable[..., object]) -> None:
    waiting = gang(tmp_path, "2")
    waiting.stop.requested = True
    lease_of(gang(tmp_path, "1")).take()
    with pytest.raises(StopRequested):
        getattr(wait(waiting, lambda _: None), "__enter__", lambda: None)()


PROGRAM = """
import sys
from diht_k8s.api.documents import load
from diht_k8s.api.layout import Layout
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.train.stage import identify

print("initFrom" in identify(load(sys.argv[1], name="run"), Storage(), Layout("out"))[0], "torch" in sys.modules)
"""


def test_launcher_when_it_identifies_first_weights_then_without_torch(tmp_path: Path) -> None:
    for name in ("a.tar", "a.pt"):
        (tmp_path / name).write_bytes(b"")
    shards = [str(tmp_path / "a.tar")]
    train = {**TRAIN, "shards": shards, "initFrom": {"uri": str(tmp_path / "a.pt")}}
    document = dump(run_over(*shards, tmp_path / "out", train=train))
    ended = subprocess.run([sys.executable, "-c", PROGRAM, document], capture_output=True, text=True, timeout=300)
    assert (ended.stdout.split(), ended.stderr) == (["True", "False"], "")


STORAGE = Storage()


def config(samples: int, inputs: str = "f", **fields: Any) -> dict[str, Any]:
    return {"stage": "train", "config": {"samples": samples, **fields}, "inputs": {"filter": inputs}}


def trained(output: Path, config: dict[str, Any], *, steps: tuple[int, ...] = (), complete: bool = False) -> str:
    """A training's folder with committed checkpoints and one that is not; its digits."""
    layout = Layout(str(output)).at(Stage.TRAIN, sha256_of(config))
    start(STORAGE, layout, Stage.TRAIN, config, {})
    for step in steps:
        STORAGE.write_bytes(f"{layout.checkpoints}/step-{step:09d}/COMMITTED.json", b"{}")
        STORAGE.write_bytes(f"{layout.checkpoints}/step-{step + 1:09d}/part", b"")
    if complete:
        commit(STORAGE, layout, Stage.TRAIN, config, [], {})
    return sha256_of(config)[:DIGITS]


def offered(output: Path, config: dict[str, Any]) -> str:
    return offer_shorter_sibling(STORAGE, Layout(str(output)).at(Stage.TRAIN, sha256_of(config)), config)


@pytest.mark.parametrize(
    ("other", "steps", "complete", "place"),
    [
        (config(10), (3, 5), True, "/checkpoints/step-000000005 --set train.initFrom.kind=Checkpoint"),
        (config(10), (3,), False, "/checkpoints/step-000000003 --set train.initFrom.kind=Checkpoint"),
        (config(10), (), True, "/model"),
        (config(10), (), False, None),
        (config(30), (3,), True, None),
        (config(20), (3,), True, None),
        (config(10, beta=1), (3,), True, None),
        (config(10, inputs="g"), (3,), True, None),
    ],
)
def test_training_that_differs_in_fewer_samples_alone_is_offered(
    tmp_path: Path, other: dict[str, Any], steps: tuple[int, ...], complete: bool, place: str | None
) -> None:
    digits = trained(tmp_path, other, steps=steps, complete=complete)
    assert offered(tmp_path, config(20)) == (
        ""
        if place is None
        else f"train/{digits} is the same training of 10 samples; to go on from it: "
        f"--set train.initFrom.uri={tmp_path}/train/{digits}{place}"
    )


def test_longest_is_offered_and_none_to_a_training_that_begins_elsewhere(tmp_path: Path) -> None:
    trained(tmp_path, config(5), complete=True)
    longest = trained(tmp_path, config(10), complete=True)
    assert f"train/{longest} is the same training of 10 samples" in offered(tmp_path, config(20))
    assert offered(tmp_path, config(20, initFrom={"uri": "there"})) == ""
