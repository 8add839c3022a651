"""Any number of processes: the training of one process, whether the processes divide the batch or not.

Of 16 pairs the last one of three processes has fewer than the others; of 5 pairs one of four has a single pair and one
none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.recipe.train.small_run import Job, Table, document, lines, make_data, train_in_ranks

SHARDS = (40, 21, 27)
STEPS, BATCH = 7, 16
"""The last one of STEPS is of the second epoch."""
PAIRS = {3: BATCH, 4: 5}
"""Of a batch, by processes."""
MASKED = {"loss": {"maskDuplicateCaptions": True}}
EMBEDDINGS = {"distillation": {"embeddings": {"weight": 0.5, "temperature": 0.2}}}
KINDS: Table = {"masked": {**MASKED, **EMBEDDINGS}, "unmasked": {"ema": 0.9}}
"""HN-NCE with concept heads, with and without repeated captions among the negatives."""
PLACES: Table = {
    "zero 0": {"zeroStage": 0},
    "zero 1, parts": {"zeroStage": 1, "microBatchSize": 4},
    "zero 2, rows": {"zeroStage": 2, "microBatchSize": 1},
    "zero 3, parts": {"zeroStage": 3, "microBatchSize": 4},
    "zero 3, rows": {"zeroStage": 3, "microBatchSize": 1},
}
"""Micro-batches of which the last one is shorter: 4 and 2 of six rows; and those of a single row, of which some have no
pair."""
FIGURES = (
    "loss",
    "contrastive_loss",
    "object_loss",
    "attribute_loss",
    "embedding_loss",
    "regression_loss",
    "image_to_text_top1",
    "text_to_image_top1",
    "hardest_negative_weight",
    "duplicate_caption_share",
    "lr",
    "logit_scale",
    "samples",
)
HELD_OUT = ("validation_loss", "validation_image_to_text_top1", "validation_text_to_image_top1")
pytestmark = pytest.mark.timeout(1800)  # for machines that do other things, too
CASES = [
    (3, "masked", "zero 0"),
    (3, "unmasked", "zero 1, parts"),
    (3, "masked", "zero 3, parts"),
    (4, "unmasked", "zero 0"),
    (4, "unmasked", "zero 2, rows"),
    (4, "masked", "zero 3, rows"),
]

Results = dict[tuple[int, int, str, str], dict[str, Any]]
"""By processes, pairs of a batch, kind and place."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("worlds")
    make_data(folder / "data", SHARDS, captions=30)
    return folder


def name_of(world: int, pairs: int, kind: str, where: str) -> str:
    return f"{world}-{pairs}-{kind}-{where}".replace(" ", "-").replace(",", "")


@pytest.fixture(scope="module")
def trained(place: Path) -> Results:
    gangs = {case: (case[0], PAIRS[case[0]], *case[1:]) for case in CASES}
    alone = [(1, pairs, kind, "zero 0") for pairs in PAIRS.values() for kind in KINDS]
    results: Results = {}
    for world in (1, *PAIRS):
        jobs = {}
        for each in dict.fromkeys([*alone, *gangs.values()]):
            _, pairs, kind, where = each
            train = {"samples": STEPS * pairs, "batchSize": pairs, **KINDS[kind], **PLACES[where]}
            held_out = {"shards": [f"{place}/data/made/filter/kept/drawn-1.tar"], "everySamples": 3 * pairs}
            if each[0] == world:
                run = document(place / name_of(*each), data=place / "data", validation=held_out, **train)
                jobs[each] = Job(run)
        found = train_in_ranks(world, {name_of(*each): job for each, job in jobs.items()}, place / f"ranks-{world}")
        results |= {each: found[name_of(*each)] for each in jobs}
    return results


def metrics(place: Path, *case: Any) -> dict[int, dict[str, Any]]:
    return {line["step"]: line for line in lines(place, name_of(*case))}


def assert_same_curve(found: dict[str, Any], reference: dict[str, Any]) -> None:
    assert found["error"] is None
    assert found["uids"] == reference["uids"]
    for what in ("losses", "norms"):
        ours, theirs = (torch.tensor(result[what]) for result in (found, reference))
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4, msg=lambda text, w=what: f"{w}: {text}")


@pytest.mark.parametrize(("world", "kind", "where"), CASES)
def test_training_when_the_processes_do_not_divide_the_batch_then_that_of_one(
    trained: Results, world: int, kind: str, where: str
) -> None:
    pairs = PAIRS[world]
    found, reference = trained[world, pairs, kind, where], trained[1, pairs, kind, "zero 0"]
    assert len(reference["losses"]) == STEPS
    assert reference["losses"][-1][0] < reference["losses"][0][0] - 0.3, "it learns"
    assert_same_curve(found, reference)
    assert found["weights"].keys() == reference["weights"].keys()
    for key, weight in reference["weights"].items():
        torch.testing.assert_close(
            found["weights"][key], weight, rtol=0, atol=1e-4, msg=lambda text, k=key: f"{k}: {text}"
        )


@pytest.mark.parametrize(("world", "kind", "where"), CASES)
def test_metrics_when_the_processes_do_not_divide_the_batch_then_of_the_pairs_alone(
    trained: Results, place: Path, world: int, kind: str, where: str
) -> None:
    assert trained
    pairs = PAIRS[world]
    found, reference = metrics(place, world, pairs, kind, where), metrics(place, 1, pairs, kind, "zero 0")
    both = sorted(found.keys() & reference.keys())
    held_out = [step for step in both if HELD_OUT[0] in reference[step]]
    assert held_out == [3, 6, STEPS]
    for step in both:
        names = FIGURES + (HELD_OUT if step in held_out else ())
        ours, theirs = ({name: line[step][name] for name in names} for line in (found, reference))
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    assert pairs < BATCH or 0 < reference[STEPS]["duplicate_caption_share"] < 1


CHAIN = [(3, 2, None), (2, 4, 2), (1, 1, None), (2, 1, None), (3, None, None)]
"""Processes, steps of the attempt, and good steps of one that ends without a checkpoint of its last ones."""


@pytest.fixture(scope="module")
def resumed(place: Path) -> dict[str, Any]:
    """A training that goes on with other numbers of processes, and the whole one in one process."""
    train = {"samples": STEPS * BATCH, "checkpoint": {"everySamples": 2 * BATCH}}
    attempts = []
    for number, ((world, steps, good), stage) in enumerate(zip(CHAIN, (1, 3, 0, 2, 1), strict=True)):
        run = document(place / "chain", data=place / "data", zeroStage=stage, **train)
        attempts += train_in_ranks(
            world, {"it": Job(run, steps, finite_steps=good)}, place / f"chain-{number}"
        ).values()
    whole = Job(document(place / "alone", data=place / "data", **train))
    return {"attempts": attempts, "whole": train_in_ranks(1, {"whole": whole}, place / "chain-whole")["whole"]}


def test_lineage_when_resumed_with_other_numbers_of_processes_then_each_sample_once(resumed: dict[str, Any]) -> None:
    attempts, whole = resumed["attempts"], resumed["whole"]
    assert [each["error"] is None for each in attempts] == [False] * 4 + [True]
    began = [each["began"] for each in attempts]
    assert began[0] == 0
    assert began[2] < began[1] + len(attempts[1]["uids"]), "an attempt lost steps"
    lineage: dict[int, list[str]] = {}
    for each in attempts:
        lineage |= {each["began"] + step: uids for step, uids in enumerate(each["uids"])}
    assert [lineage[step] for step in range(STEPS)] == whole["uids"]
    seen, whole_batches = [uid for step in range(STEPS) for uid in lineage[step]], sum(SHARDS) // BATCH * BATCH
    assert len(set(seen[:whole_batches])) == whole_batches
    assert len(set(seen[: whole_batches + BATCH])) == sum(SHARDS), "the first epoch ends in the next batch"


def test_curve_when_resumed_with_other_numbers_of_processes_then_the_same(resumed: dict[str, Any]) -> None:
    losses: dict[int, list[float]] = {}
    for each in resumed["attempts"]:
        losses |= {each["began"] + step: values for step, values in enumerate(each["losses"])}
    ours, theirs = torch.tensor([losses[step] for step in range(STEPS)]), torch.tensor(resumed["whole"]["losses"])
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
