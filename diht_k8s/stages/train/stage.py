"""Stage 3, train: kept shards and soft labels in, checkpoints and an open_clip model out.

Runs in process 1 of a pod: claims the output, launches the ranks, commits.

Of several runs that need the same training, one gang computes it. Node 0 asks for `lease.json` in the training's folder
before ranks start, and rewrites it while they run (`data.lease`). Where another gang lives, this one ends as
`ComputedElsewhere`, and its GPUs serve others. The lease saves GPUs and protects nothing: that is what the fence does,
which orders attempts whatever the leases say (`checkpoint.fencing`).
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from diht_k8s.api.documents import dump
from diht_k8s.api.errors import ComputedElsewhere, DihtError, RetryableError, StopRequested, UserError
from diht_k8s.api.layout import LEASE, Layout, join
from diht_k8s.api.pods import RUN_UID, merged
from diht_k8s.api.reports import MAX_PROBLEM, Committed, NodeResult
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.api.steps import WAIT_STEP
from diht_k8s.api.train import Train, few_pairs
from diht_k8s.data.lease import BEAT_SECONDS, WorkLease, beating
from diht_k8s.data.shards.sources import current_shards, current_sources
from diht_k8s.data.shards.storage import Storage
from diht_k8s.models.files import weights_sha256
from diht_k8s.runtime.commit import artefact, read_committed
from diht_k8s.runtime.hangs.watchdog import FIRST_SECONDS_VARIABLE
from diht_k8s.runtime.inputs import pairs_before
from diht_k8s.runtime.launcher import export_env, launch
from diht_k8s.runtime.preflight import (
    DNS_TIMEOUT_S,
    RESULT_VARIABLE,
    Gang,
    check_locked_memory,
    check_node,
    check_output,
    in_pod,
    shared_bytes,
    this_node,
)
from diht_k8s.runtime.stage import Context, Outcome
from diht_k8s.stages.train.checkpoint.init_from import init_identity
from diht_k8s.stages.train.model.configurations import model_configuration

RANK_MODULE = "diht_k8s.stages.train.loop"
RESULT = "result.json"
"""Written by rank 0 when all is done; names what belongs to the output."""
MAX_WEIGHT_RATIO = 100
"""Of the sources' weights."""


def identify(run: DihtRun, storage: Storage, layout: Layout) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """The kept pairs and labels by the stages that made them, and takedowns since; raw shards by their identity."""
    train = run.training
    model_configuration(train)  # refused before ranks start
    inputs = _weights(run)
    if train.shards:
        (own,) = current_sources(storage, run.spec.data.output, [train.shards])
        inputs |= {each.uri: each.identity for each in own}
    elif run.spec.filter is not None:
        inputs |= pairs_before(read_committed(storage, layout, Stage.FILTER))
    else:
        inputs |= {shard.name: shard.identity or "" for shard in current_shards(run.spec, storage)}
    if train.distillation.reads_labels:
        label = read_committed(storage, label_layout(run, layout), Stage.LABEL)
        check_labels(train, label_layout(run, layout), label)
        inputs["label"] = label.identity
    if train.init_from is not None:
        inputs |= init_identity(storage, train.init_from)
    if train.words is not None:
        inputs["words"] = weights_sha256(storage, train.words)
    if train.interpolate and train.validation is not None:  # what they show decides what is exported
        (held_out,) = current_sources(storage, run.spec.data.output, [train.validation.shards])
        inputs |= {each.uri: each.identity for each in held_out}
    return inputs, {"open_clip": importlib.metadata.version("open_clip_torch")}


def reads(run: DihtRun, storage: Storage, layout: Layout, config: Mapping[str, Any]) -> dict[str, str]:
    """The folders of the filter and the labels, and what the document names itself."""
    train, found = run.training, dict[str, str]()
    if run.spec.filter is not None and not train.shards:
        found["filter"] = layout.relative(Stage.FILTER)
    if train.distillation.reads_labels:
        found["label"] = label_layout(run, layout).relative(Stage.LABEL)
    if train.init_from is not None and not train.init_from.names_network:
        found["initFrom"] = train.init_from.uri
    if train.words is not None:
        found["words"] = train.words
    return found


def present(run: DihtRun, storage: Storage, layout: Layout) -> None:
    """Nothing: the page of the run's evaluation shows this stage."""


def execute(context: Context) -> Outcome | None:
    """Launch this node's ranks; node 0 commits what rank 0 wrote. The step `wait` only waits for another run's gang."""
    if context.step == WAIT_STEP:
        wait_until_free(context)
        return None
    train = context.run.training
    gang = Gang.from_environment(train.processes_per_node)
    _check_shape(train, gang)
    export_env(RESULT_VARIABLE, check_pod(context, gang.processes).model_dump_json(exclude_none=True))
    export_env("DIHT_RUN", dump(context.run))
    export_env("DIHT_STAGE_CONFIG", json.dumps(context.config))
    # Before a collective's time-out, which names nobody, the watchdog shall have named who is waited for.
    os.environ.setdefault(FIRST_SECONDS_VARIABLE, str(0.9 * train.collective_timeout_seconds))
    policy = context.run.spec.failure_policy
    with held_lease(context) if gang.node_rank == 0 else contextlib.nullcontext():
        launch(
            gang,
            RANK_MODULE,
            run_id=context.run.metadata.name,
            stop=context.stop,
            in_place=policy.restart == "InPlace",
            account=context.progress.time,
            # A peer may still wait for a node: the operator withdraws the gang then, which counts towards no
            # maxRestarts.
            peers_s=policy.scheduling_timeout_seconds + DNS_TIMEOUT_S,
        )
    if gang.node_rank != 0:
        return None
    result: dict[str, Any] = json.loads(context.storage.read_bytes(join(context.layout.stage(Stage.TRAIN), RESULT)))
    artefacts = [artefact(context.storage, context.layout, Stage.TRAIN, path) for path in result["files"]]
    return Outcome(artefacts, result["summary"])


def check_pod(context: Context, processes: int) -> NodeResult:
    """Check this pod and its node before any rank starts.

    Args:
        context: of the stage.
        processes: ranks of this pod.

    Returns:
        What was measured.

    Raises:
        UserError: the run document asks for too little, or the output cannot be used.
        RetryableError: another node may do better. The ranks have not met, so only this pod can tell: its cause names
            the node with its problem.
    """
    found, host = this_node(), socket.gethostname()
    try:
        if in_pod():
            found = found.model_copy(update={"shared_memory_mib": shared_bytes() >> 20})
            check_node(processes, _gpus(context.run), host=host)
            check_locked_memory(_resources(context.run), host=host)
        seconds = check_output(context.storage, context.layout.stage(Stage.TRAIN), host=host)
    except RetryableError as error:
        error.details = {"preflight": [found.model_copy(update={"problem": str(error)[:MAX_PROBLEM]})]}
        raise
    return found.model_copy(update={"output_seconds": round(seconds, 4)})


def label_layout(run: DihtRun, layout: Layout) -> Layout:
    """With the folder of the labels: this run's, or that of `train.labels`."""
    labels = run.training.labels
    return layout if labels is None else layout.with_folder(Stage.LABEL, labels.rstrip("/"))


def check_labels(train: Train, labelled: Layout, label: Committed) -> None:
    """Refuse labels without the embeddings that a training asks for.

    Args:
        train: its settings.
        labelled: with the folder of the labels.
        label: their marker.

    Raises:
        UserError: they have none.
    """
    teacher = label.config.get("config", {}).get("teacher", {})
    if train.distillation.embeddings is not None and not teacher.get("textEmbeddings"):
        raise UserError(
            f"train.distillation.embeddings: the labels in {labelled.stage(Stage.LABEL)} hold no embeddings: run "
            "their stage "
            "with label.teacher.textEmbeddings: true and a teacher open_clip/NAME, or leave embeddings out"
        )


def _gpus(run: DihtRun) -> int:
    """GPUs that each pod asks for."""
    asked = str(_resources(run).get("nvidia.com/gpu", 0))
    return int(asked) if asked.isdigit() else 0


def _resources(run: DihtRun) -> Mapping[str, str | int]:
    return merged(run.spec.pods, run.training.pods).resources


def _check_shape(train: Train, gang: Gang) -> None:
    ranks = gang.nodes * gang.processes
    if (problem := few_pairs(train.batch_size, ranks)) is not None:
        raise UserError(problem)
    if gang.nodes > 1 and not gang.master:
        raise UserError("DIHT_MASTER is not set: a gang of several nodes needs the host name of node 0")


def _weights(run: DihtRun) -> dict[str, str]:
    """The sources' weights among the stage's inputs; empty where all are alike."""
    weights = {source.name: source.weight for source in run.spec.data.sources}  # none beside train.shards
    least, most = min(weights.values(), default=1.0), max(weights.values(), default=1.0)
    if least == most:
        return {}
    if run.training.shards:
        raise UserError(
            "data.sources[].weight does not go with train.shards, whose pairs are of no source: remove one of them"
        )
    if most > MAX_WEIGHT_RATIO * least:
        raise UserError(
            f"data.sources[].weight: {most:g} is more than {MAX_WEIGHT_RATIO} times {least:g}, so that an epoch "
            "would repeat the one source "
            "that often: bring them closer"
        )
    return {"weights": ", ".join(f"{name} {weight / least:g}" for name, weight in weights.items())}


def lease_of(context: Context, clock: Callable[[], float] = time.monotonic) -> WorkLease:
    """This gang's view of the lease of its training."""
    uri = join(context.layout.stage(Stage.TRAIN), LEASE)
    return WorkLease(context.storage, uri, {"owner": context.owner.id}, clock=clock)


@contextlib.contextmanager
def held_lease(
    context: Context, sleep: Callable[[float], object] = time.sleep, clock: Callable[[], float] = time.monotonic
) -> Iterator[None]:
    """Hold the lease of a training.

    Raises:
        ComputedElsewhere: another run's gang works on it, has just completed it, or has taken it over meanwhile.
    """
    lease = lease_of(context, clock)
    if not lease.watch(lambda: _go_on(context), sleep):
        raise _elsewhere(lease.found)
    try:
        _go_on(context)  # it may have been completed while this one watched
        with beating(lease.keep):
            yield
    except BaseException as error:
        fenced = isinstance(error, StopRequested) and not context.stop.requested
        if fenced:
            lease.look()
        with contextlib.suppress(DihtError):  # it stands still from now on, which says the same
            lease.release()
        if fenced and lease.is_foreign:
            raise _elsewhere(lease.found) from error
        raise
    # At a good end the lease stays: until the marker is written, nobody shall find the training free.


def wait_until_free(
    context: Context, sleep: Callable[[float], object] = time.sleep, clock: Callable[[], float] = time.monotonic
) -> None:
    """Wait while another run's gang works on a training, until it is committed or may be taken.

    Raises:
        StopRequested: a signal.
    """
    lease = lease_of(context, clock)
    while not _is_committed(context):
        lease.look()
        if lease.is_free():
            return
        context.stop.raise_if_requested()
        sleep(BEAT_SECONDS)


def _is_committed(context: Context) -> bool:
    return context.storage.exists(context.layout.committed(Stage.TRAIN))


def _go_on(context: Context) -> None:
    """Look whether the training is still to be computed."""
    if _is_committed(context):
        raise ComputedElsewhere("another run has completed this training meanwhile: start again to take its result")
    context.stop.raise_if_requested()


def _elsewhere(found: dict[str, Any] | None) -> ComputedElsewhere:
    """Tells the UID of the holder.

    Its name is nobody's business who shares the bucket; the operator knows those of a namespace.
    """
    owner = str((found or {}).get("owner"))
    holder = f"run {owner}" if RUN_UID.fullmatch(owner) else "another run"
    return ComputedElsewhere(f"this training is computed by {holder}: start again to take its result")
