"""Stage 2, label (paper section 3.2): vocabulary, teacher features, linear heads, soft labels.

In: the filter's scores and kept shards, a teacher's weights. Out: `vocabulary.json`, `heads.json`,
`teacher_heads.safetensors`, `labels/SHARD.parquet`, `report.json`; `embeddings/SHARD.safetensors` where they are asked
for.

The stage has three steps, each a job of its own on a cluster and on a laptop: `vocabulary` and `heads` in one process,
`predict` in as many as there are workers, which share the shards as those of the filter do. A step needs what the one
before it wrote. Every file is written whole or not at all, and a file that is there is not made again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from diht_k8s.api.layout import Layout
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.api.steps import LABEL_STEPS
from diht_k8s.data.shards.storage import Storage
from diht_k8s.models.files import weights_sha256
from diht_k8s.runtime.claims import once
from diht_k8s.runtime.commit import read_committed
from diht_k8s.runtime.stage import Context, Outcome
from diht_k8s.stages.label.job import LabelJob, make_job
from diht_k8s.stages.label.teacher_weights import weights_uri
from diht_k8s.stages.label.vocabulary import make_vocabulary

logger = logging.getLogger(__name__)


def identify(run: DihtRun, storage: Storage, layout: Layout) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """The filter's output and the teacher's weights."""
    assert run.spec.label is not None  # run_stage has checked it
    committed = read_committed(storage, layout, Stage.FILTER)
    digest = weights_sha256(storage, weights_uri(run.spec.label.teacher))
    return {"filter": committed.identity}, {"teacher": digest}


def reads(run: DihtRun, storage: Storage, layout: Layout, config: Mapping[str, Any]) -> dict[str, str]:
    """The filter's folder."""
    return {"filter": layout.relative(Stage.FILTER)}


def present(run: DihtRun, storage: Storage, layout: Layout) -> None:
    """Nothing: the page of the run's evaluation shows this stage."""


def execute(context: Context) -> Outcome | None:
    """Run one step, or all of them if none is named; one worker of `predict` writes the report, the others wait for it.

    Without a step worker 0 does everything, since the steps depend on each other; the other workers have nothing to do.
    """
    if context.step:
        return _execute_steps((context.step,), make_job(context))
    if context.worker:
        logger.warning("worker 0 runs the whole stage: to share it among workers, run its steps: --step predict")
        return None
    return _execute_steps(LABEL_STEPS, make_job(replace(context, workers=1)))


def _execute_steps(names: Sequence[str], job: LabelJob) -> Outcome | None:
    """Run some steps in order; the files that the first one needs exist when it starts."""
    context, exists = job.context, job.context.storage.exists
    if "vocabulary" in names:
        once(context, "vocabulary", lambda: exists(context.layout.vocabulary), lambda: make_vocabulary(job))
    if names == ("vocabulary",):
        return None
    # torch: not needed before, nor by a stage that ends as cached
    from diht_k8s.stages.label import heads_step, predict_step
    from diht_k8s.stages.label.teacher import LazyTeacher, claim_threads

    teacher = LazyTeacher(job.label.teacher, job.context.storage, claim_threads())
    if "heads" in names:
        once(
            context, "heads", lambda: exists(context.layout.teacher_heads), lambda: heads_step.make_heads(job, teacher)
        )
    if "predict" not in names:
        return None
    return predict_step.make_labels(job, teacher)
