from __future__ import annotations

import pytest

from diht_k8s.api.train import Optimizer, Schedule
from diht_k8s.stages.train.optimizer import learning_rate

OPTIMIZER = Optimizer(lr=1.0)


@pytest.mark.parametrize(
    ("schedule", "seen", "expected"),
    [
        (Schedule(), 0, 1.0),
        (Schedule(), 500, 0.5),
        (Schedule(), 1000, 0.0),
        (Schedule(), 2000, 0.0),
        (Schedule(min_lr=0.2), 1000, 0.2),
        (Schedule(min_lr=0.2), 500, 0.6),
        (Schedule(warmup_samples=99), 0, 0.01),
        (Schedule(warmup_samples=99), 49, 0.5),
        (Schedule(warmup_samples=100), 100, 1.0),
        (Schedule(warmup_samples=100), 550, 0.5),
        (Schedule(type="Constant"), 999, 1.0),
        (Schedule(type="Constant", warmup_samples=99), 49, 0.5),
        (Schedule(warmup_samples=1000), 1000, 1.0),
        (Schedule(type="WSD", warmup_samples=99), 49, 0.5),
        (Schedule(type="WSD", warmup_samples=99), 100, 1.0),
        (Schedule(type="WSD"), 800, 1.0),
        (Schedule(type="WSD"), 850, 0.5),
        (Schedule(type="WSD"), 1000, 0.0),
        (Schedule(type="WSD"), 2000, 0.0),
        (Schedule(type="WSD", min_lr=0.2), 850, 0.6),
        (Schedule(type="WSD", decay_share=1), 0, 1.0),
        (Schedule(type="WSD", decay_share=1), 250, 0.5),
        (Schedule(type="WSD", decay_share=0.5, warmup_samples=500), 500, 1.0),
        (Schedule(type="WSD", decay_share=0.5), 500 + 45, 0.7),
    ],
)
def test_learning_rate_warms_up_and_falls(schedule: Schedule, seen: int, expected: float) -> None:
    assert learning_rate(OPTIMIZER, schedule, seen=seen, samples=1000) == pytest.approx(expected, abs=1e-12)
