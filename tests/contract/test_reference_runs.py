"""The reference documents: valid as they are and as their baseline, with a public figure, today's estimate and a
measured place.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from diht_k8s.api.documents import load

FOLDER = Path(__file__).parents[2] / "examples/reference"
REFERENCES = sorted(FOLDER.glob("*.yaml"))


def header(path: Path) -> str:
    """The comment at the top in one line."""
    lines = path.read_text().partition("apiVersion:")[0].splitlines()
    return " ".join(line.removeprefix("#").strip() for line in lines)


@pytest.mark.parametrize("path", REFERENCES, ids=lambda path: path.stem)
def test_reference_is_valid_and_so_is_its_baseline(path: Path) -> None:
    run = load(path.read_text(), name=path.name)
    assert (run.metadata.name, [stage.value for stage in run.spec.stages]) == (
        path.stem,
        ["filter", "label", "train", "evaluate"],
    )
    overrides = re.findall(r"--set (\S+)", header(path))
    baseline = load(path.read_text(), name=path.name, overrides=overrides)
    assert baseline.spec.train is not None
    assert [stage.value for stage in baseline.spec.stages] == ["train", "evaluate"]
    assert (baseline.spec.train.loss.alpha, baseline.spec.train.loss.beta) == (1.0, 0.0)
    assert baseline.spec.train.distillation.mode == "Disabled"
