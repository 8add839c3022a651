"""`train.gradientReduction`: the same sums at every ZeRO stage, in fp32 or in bf16, two processes on CPUs."""

from __future__ import annotations

from typing import Any

import pytest

from tests.recipe.train.small_run import Job, Table, document, make_data, train_in_ranks

STEPS, BATCH = 4, 16
STAGES = (0, 1, 2, 3)
pytestmark = pytest.mark.timeout(600)  # for machines that do other things, too


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Table:
    folder = tmp_path_factory.mktemp("reduction")
    make_data(folder / "data")

    def job(name: str, **train: Any) -> Job:
        return Job(document(folder / name, data=folder / "data", samples=STEPS * BATCH, **train))

    def kinds(*pairs: tuple[str, str]) -> dict[str, Job]:
        return {
            f"{precision}, {reduction}, {stage}": job(
                f"{precision} {reduction} {stage}",
                precision=precision,
                gradientReduction=reduction,
                zeroStage=stage,
                # Norms are summed in another order at each stage, and one rounding of the clip flips weights in bf16.
                optimizer={"gradientClipNorm": 0},
            )
            for stage in STAGES  # the last one changes linear layers for the rest of the process
            for precision, reduction in pairs
        }

    # Apart from each other: DeepSpeed remembers for the rest of a process that an engine had autocast.
    found = train_in_ranks(2, kinds(("fp32", "bf16")), folder / "fp32")
    return found | train_in_ranks(2, kinds(("bf16", "fp32"), ("bf16", "bf16")), folder / "bf16")


def distance(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """The largest difference of two trainings' weights."""
    pairs = ((value, theirs["weights"][key]) for key, value in ours["weights"].items() if "|" not in key)
    return max(float((value - other).abs().max()) for value, other in pairs)


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("kind", ["fp32, bf16", "bf16, fp32", "bf16, bf16"])
def test_weights_when_reduced_in_one_precision_then_the_same_for_every_zero_stage(
    trained: Table, kind: str, stage: int
) -> None:
    ours, reference = trained[f"{kind}, {stage}"], trained[f"{kind}, 0"]
    assert ours["error"] is reference["error"] is None
    assert distance(ours, reference) < 5e-5


@pytest.mark.parametrize("kind", ["fp32, bf16", "bf16, fp32", "bf16, bf16"])
def test_weights_when_stage_3_has_linear_layers_of_its_own_then_within_the_rounding_of_bf16(
    trained: Table, kind: str
) -> None:
    assert trained[f"{kind}, 3"]["error"] is None
    assert distance(trained[f"{kind}, 3"], trained[f"{kind}, 0"]) < (1e-2 if kind.startswith("bf16") else 2e-4)


def test_reduction_when_in_bf16_then_it_counts(trained: Table) -> None:
    assert distance(trained["bf16, bf16, 0"], trained["bf16, fp32, 0"]) > 1e-4
