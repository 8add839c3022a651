"""The parts of a benchmark's result put together."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from diht_k8s.api.evaluate import FewShot
from diht_k8s.recipe.evaluate import tasks
from diht_k8s.recipe.evaluate.benchmark_data import BenchmarkImage, BenchmarkImages
from diht_k8s.recipe.evaluate.few_shot import FewShotCurve


def test_probe_when_it_starts_from_zero_shot_has_the_models_logit_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def curve(features_ND: np.ndarray, labels_N: np.ndarray, zero_shot_CD: np.ndarray, *rest: object) -> FewShotCurve:
        seen["zero_shot"] = zero_shot_CD
        return FewShotCurve([], {}, 0)

    monkeypatch.setattr(tasks, "few_shot_curve", curve)
    monkeypatch.setattr(tasks, "encode_texts", lambda loaded, texts: np.eye(2, dtype=np.float32))
    items = [BenchmarkImage("0.tar", str(row), str(row), (), row % 2) for row in range(4)]
    images = BenchmarkImages(items, np.eye(2, dtype=np.float32)[[0, 1, 0, 1]])
    loaded = cast("Any", SimpleNamespace(logit_scale=50.0))
    result = tasks.classify(images, ["a", "b"], ["{}"], loaded, FewShot(shots=[1], seeds=1), [0])
    assert result["top1"] == 1.0
    assert seen["zero_shot"].tolist() == [[50.0, 0.0], [0.0, 50.0]]
