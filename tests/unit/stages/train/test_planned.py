"""Progress and metrics count the same samples: those of whole steps."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from diht_k8s.api.train import Train
from diht_k8s.stages.train.loop import Training


@pytest.mark.parametrize(("samples", "planned"), [(128, 128), (123, 128), (129, 144), (16, 16)])
def test_planned_samples_are_those_of_whole_steps(samples: int, planned: int) -> None:
    training = object.__new__(Training)
    training.settings = cast("Train", SimpleNamespace(samples=samples, batch_size=16))
    assert training.planned == training.steps * 16 == planned
