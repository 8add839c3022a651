"""Stage 2, label (paper section 3.2): vocabulary, teacher features, linear heads, soft labels.

In: the filter's scores and kept shards, a teacher's weights. Out: `vocabulary.json`, `heads.json`, `teacher_heads.safetensors`,
`labels/SHARD.parquet`, `report.json`. Workers share the shards; worker 0 makes the vocabulary and trains the object head, worker 1 the attribute head, the others wait for them.
Every file is written whole or not at all, and what is there is not made again. On a cluster the stage is three jobs: `vocabulary` and `heads`
of one pod each, `predict` of as many as there are workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from diht_k8s.api.layout import Layout
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.recipe.label.job import Job, make_job, wait_until
from diht_k8s.recipe.label.peers import Peers, heartbeat
from diht_k8s.recipe.label.teacher_files import weights_sha256, weights_uri
from diht_k8s.recipe.runtime.commit import read_committed
from diht_k8s.recipe.runtime.stage import Context, Outcome
from diht_k8s.recipe.shards.storage import Storage


def identify(run: DihtRun, storage: Storage) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """The filter's output and the teacher's weights."""
    assert run.spec.label is not None  # run_stage has checked it
    committed = read_committed(storage, Layout(run.spec.data.output), Stage.FILTER)
    digest = weights_sha256(storage, weights_uri(run.spec.label.teacher))
    return {"filter": committed.output_sha256}, {"teacher": digest}


def execute(context: Context) -> Outcome | None:
    """Do this worker's part; the worker that finds all labels there writes the report."""
    job = make_job(context)
    if context.step:
        return _execute_step(context.step, job)
    if context.workers == 1:
        return _execute_whole(job, lambda workers: None)
    folder = context.layout.stage(Stage.LABEL)
    with heartbeat(context.storage, folder, context.worker):
        return _execute_whole(job, Peers(context.storage, folder).check)


def _execute_whole(job: Job, check: Callable[[Iterable[int]], None]) -> Outcome | None:
    """All steps; `check` raises when one of the given workers is gone."""
    from diht_k8s.recipe.label import (
        fitting,  # torch: not needed by a stage that ends as cached
        steps,  # torch: not needed by a stage that ends as cached
    )

    worker, workers = job.context.worker, job.context.workers
    if worker == 0:
        steps.make_vocabulary(job)
    teacher = steps.LazyTeacher(job)
    steps.make_features(job, teacher)
    if kinds := fitting.kinds_of(worker, workers):
        _wait_for_features(job, check)
        fitting.train_heads(job, kinds)
    if worker == 0:
        _wait_for_heads(job, check)
        fitting.join_heads(job)
    else:
        _wait_for_joined_heads(job, check)
    steps.make_labels(job, teacher)
    return None if job.missing("labels", ".parquet", job.shards) else steps.finish(job)


def _wait_for_features(job: Job, check: Callable[[Iterable[int]], None]) -> None:
    """Wait for the vocabulary and for the other workers' shares of the training shards."""
    place = {shard.name: number for number, shard in enumerate(job.training_shards)}

    def look() -> tuple[set[int], object]:
        missing = job.missing("features", ".safetensors", job.training_shards)
        owing = {place[shard.name] % job.context.workers for shard in missing}
        if not job.context.storage.exists(job.context.layout.vocabulary):
            owing.add(0)
        return owing, len(missing)

    _wait(job, check, "the teacher's features", look)


def _wait_for_heads(job: Job, check: Callable[[Iterable[int]], None]) -> None:
    """Wait for the heads that other workers train."""
    from diht_k8s.recipe.label import fitting

    def look() -> tuple[set[int], object]:
        joined = job.context.storage.exists(job.context.layout.teacher_heads)
        missing = [] if joined else fitting.missing_heads(job)
        return {fitting.KINDS.index(kind) % job.context.workers for kind in missing}, len(missing)

    _wait(job, check, "the heads", look)


def _wait_for_joined_heads(job: Job, check: Callable[[Iterable[int]], None]) -> None:
    """Wait for worker 0's file of both heads."""

    def look() -> tuple[set[int], object]:
        joined = job.context.storage.exists(job.context.layout.teacher_heads)
        return set() if joined else {0}, len(job.context.storage.names(job.uri("features")))

    _wait(job, check, "the heads, which worker 0 puts together", look)


def _wait(
    job: Job, check: Callable[[Iterable[int]], None], what: str, look: Callable[[], tuple[set[int], object]]
) -> None:
    """Wait until nobody owes anything; `look` says which workers do, and what changes when there is progress."""
    owing = set[int]()

    def done() -> tuple[bool, object]:
        nonlocal owing
        owing, progress = look()
        return not owing, progress

    def on_poll() -> None:
        job.context.stop.raise_if_requested()
        check(sorted(owing - {job.context.worker}))

    wait_until(done, what, on_poll)


def _execute_step(step: str, job: Job) -> Outcome | None:
    """Do one step, where each is a job of its own: nobody waits, since what a step needs is there when it starts."""
    from diht_k8s.recipe.label import fitting, steps

    if step == "vocabulary":
        steps.make_vocabulary(job)
        return None
    teacher = steps.LazyTeacher(job)
    if step == "heads":
        steps.make_features(job, teacher)
        fitting.train_heads(job, fitting.KINDS)
        fitting.join_heads(job)
        return None
    steps.make_labels(job, teacher)
    return None if job.missing("labels", ".parquet", job.shards) else steps.finish(job)
