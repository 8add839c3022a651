from __future__ import annotations

import pytest
import torch

from diht_k8s.stages.train.engine import Stopwatch


def test_stopwatch_when_on_a_gpu_then_its_milliseconds_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mark:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            pass

        def elapsed_time(self, other: Mark) -> float:
            assert other is not self
            return 250.0

    monkeypatch.setattr(torch.cuda, "Event", Mark)
    watch = Stopwatch(torch.device("cuda"))
    watch.start()
    watch.stop()
    assert watch.seconds() == 0.25
