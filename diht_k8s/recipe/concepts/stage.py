"""Stage 2, label (paper section 3.2): vocabulary, teacher features, linear heads, soft labels.

In: the filter's scores and kept shards, a teacher's weights. Out: `vocabulary.json`, `heads.json`, `teacher_heads.safetensors`,
`labels/SHARD.parquet`, `report.json`. Workers share the shards; worker 0 makes vocabulary and heads as well, and the others wait for them.
Every file is written whole or not at all, and what is there is not made again. On a cluster the stage is three jobs: `vocabulary` and `heads`
of one pod each, `predict` of as many as there are workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from diht_k8s.api.layout import Layout
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.recipe.concepts.job import Job, make_job, wait_until
from diht_k8s.recipe.concepts.peers import Peers, heartbeat
from diht_k8s.recipe.concepts.teacher_files import weights_sha256, weights_uri
from diht_k8s.recipe.runtime.commit import read_committed
from diht_k8s.recipe.runtime.stage import Context, Outcome
from diht_k8s.recipe.shards.sets import Shard
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
    from diht_k8s.recipe.concepts import steps  # torch: not needed by a stage that ends as cached

    context, leads = job.context, job.context.worker == 0
    if leads:
        steps.make_vocabulary(job)
    teacher = steps.LazyTeacher(job)
    steps.make_features(job, teacher)
    if leads:
        _wait_for_features(job, check)
        steps.make_heads(job)
    else:
        heads = context.layout.teacher_heads
        wait_until(
            lambda: (context.storage.exists(heads), len(context.storage.names(job.uri("features")))),
            "vocabulary and heads of worker 0",
            lambda: (context.stop.raise_if_requested(), check([0])),
        )
    steps.make_labels(job, teacher)
    return None if job.missing("labels", ".parquet", job.shards) else steps.finish(job)


def _wait_for_features(job: Job, check: Callable[[Iterable[int]], None]) -> None:
    """Wait for the other workers' shares of the training shards."""
    missing = list[Shard]()

    def look() -> tuple[bool, object]:
        missing[:] = job.missing("features", ".safetensors", job.training_shards)
        return not missing, len(missing)

    def on_poll() -> None:
        job.context.stop.raise_if_requested()
        place = {shard.name: number for number, shard in enumerate(job.training_shards)}
        check(sorted({place[shard.name] % job.context.workers for shard in missing}))

    wait_until(look, "the teacher's features", on_poll)


def _execute_step(step: str, job: Job) -> Outcome | None:
    """Do one step, where each is a job of its own: nobody waits, since what a step needs is there when it starts."""
    from diht_k8s.recipe.concepts import steps

    if step == "vocabulary":
        steps.make_vocabulary(job)
        return None
    teacher = steps.LazyTeacher(job)
    if step == "heads":
        steps.make_features(job, teacher)
        steps.make_heads(job)
        return None
    steps.make_labels(job, teacher)
    return None if job.missing("labels", ".parquet", job.shards) else steps.finish(job)
