"""The stage label, called as its tests do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diht_k8s.api.reports import Committed
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.runtime.stage import run_stage
from diht_k8s.stages.label import stage

Make = Callable[..., Any]
"""The fixture `make_kept`."""


def label(run: DihtRun, **options: Any) -> Committed | None:
    return run_stage(stage, run, Stage.LABEL, **options)
