"""Dropout, stochastic depth and patch dropout with real ranks: the same training on any number of them, in any parts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from diht_k8s.stages.train.model.row_draws import RowDraws
from tests.recipe.train.small_run import VIT, Job, document, make_data, train_in_ranks
from tests.recipe.train.small_timm import SIDE

STEPS, BATCH, STOP, SEED = 8, 16, 3, 5
PATCHES = {**VIT, "vision_cfg": {**VIT["vision_cfg"], "patch_size": 8, "patch_dropout": 0.5}}
ALL = {
    **VIT,
    "vision_cfg": {
        "timm_model_name": "test_vit",
        "timm_pool": "avg",
        "timm_proj": "mlp",
        "image_size": 160,
        "timm_drop": 0.3,
        "timm_drop_path": 0.6,
        "patch_dropout": 0.25,
    },
}
"""Drops elements, paths and patches."""
ALIKE = {
    **VIT,
    "vision_cfg": {
        "timm_model_name": "small_vit_relpos",
        "timm_pool": "avg",
        "timm_proj": "linear",
        "image_size": SIDE,
        "timm_drop_path": 0.5,
    },
}
"""Drops paths, and parts of its biases of positions for all images alike."""
UNKEYED = {
    **VIT,
    "vision_cfg": {"timm_model_name": "ghostnet_050", "timm_pool": "avg", "timm_proj": "", "image_size": 32},
}
"""timm's classifier calls torch's dropout outside of a module."""
KINDS: dict[int, dict[str, dict[str, Any]]] = {
    1: {
        "patches": {"modelConfig": PATCHES},
        "patches, parts": {"modelConfig": PATCHES, "microBatchSize": 2},
        "all": {"modelConfig": ALL},
        "all, parts": {"modelConfig": ALL, "microBatchSize": 4},
        "all, recomputed": {"modelConfig": ALL, "activationCheckpointing": True},
        "all, zero 2, recomputed parts": {
            "modelConfig": ALL,
            "zeroStage": 2,
            "microBatchSize": 2,
            "activationCheckpointing": True,
        },
        "alike": {"modelConfig": ALIKE},
        "alike, recomputed parts": {"modelConfig": ALIKE, "activationCheckpointing": True, "microBatchSize": 4},
        "refused": {"modelConfig": UNKEYED},
    },
    2: {
        "patches": {"modelConfig": PATCHES, "microBatchSize": 4},
        "all": {"modelConfig": ALL},
        "all, zero 3": {"modelConfig": ALL, "zeroStage": 3},
    },
    3: {
        "patches": {"modelConfig": PATCHES},
        "all, parts": {"modelConfig": ALL, "microBatchSize": 4},
        "alike, parts": {"modelConfig": ALIKE, "microBatchSize": 4},
    },
    4: {"patches": {"modelConfig": PATCHES}, "all": {"modelConfig": ALL, "zeroStage": 1, "microBatchSize": 2}},
}
pytestmark = pytest.mark.timeout(900)  # for machines that do other things, too


def job(folder: Path, name: str, stop_after: int | None = None, **train: Any) -> Job:
    settings = {"samples": STEPS * BATCH, "seed": SEED, **train}
    return Job(document(folder / name, data=folder / "data", **settings), stop_after)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, str], dict[str, Any]]:
    folder = tmp_path_factory.mktemp("row draws")
    make_data(folder / "data")
    results = {}
    for world, kinds in KINDS.items():
        jobs = {name: job(folder, f"{name}, {world}", **train) for name, train in kinds.items()}
        if world == 2:
            jobs |= {
                "all 1": job(folder, "moved", STOP, modelConfig=ALL),
                "all 2": job(folder, "moved", modelConfig=ALL),
            }
        found = train_in_ranks(world, jobs, folder / f"{world} ranks")
        results |= {(world, name): result for name, result in found.items()}
    return results


CASES = [
    (world, name)
    for world, kinds in KINDS.items()
    for name in kinds
    if name != "refused" and (world, name) not in ((1, "patches"), (1, "all"), (1, "alike"))
]


@pytest.mark.parametrize(("world", "name"), CASES)
def test_curve_when_pairs_are_dropped_from_then_the_same_on_any_number_of_ranks_and_in_any_parts(
    trained: dict[tuple[int, str], dict[str, Any]], world: int, name: str
) -> None:
    one = trained[1, name.partition(",")[0]]["losses"]
    assert len(one) == STEPS
    torch.testing.assert_close(torch.tensor(trained[world, name]["losses"]), torch.tensor(one), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("world", "name"), [case for case in CASES if case[1].startswith("alike")])
def test_gradient_when_parts_are_dropped_for_all_images_alike_then_the_same_on_any_number_of_ranks_and_in_any_parts(
    trained: dict[tuple[int, str], dict[str, Any]], world: int, name: str
) -> None:
    ours, theirs = (
        {
            key: value
            for key, value in trained[case]["gradients"].items()
            if re.search(r"rel_pos\.mlp\.fc(1|2\.weight)", key)
        }
        for case in ((world, name), (1, "alike"))
    )
    assert len(theirs) == 6  # of a bias that softmax takes away there is none
    assert all(gradient.any() for gradient in theirs.values())
    assert ours.keys() == theirs.keys()
    for key, gradient in theirs.items():
        least = 1e-4 * float(gradient.abs().max())
        torch.testing.assert_close(ours[key], gradient, rtol=1e-4, atol=least, msg=lambda text, k=key: f"{k}: {text}")


@pytest.mark.parametrize(("world", "name", "first"), [(1, "all, parts", 12), (2, "all", 0), (4, "all", 2)])
def test_words_when_drawn_then_of_the_trainings_seed_the_step_and_the_rows(
    trained: dict[tuple[int, str], dict[str, Any]], world: int, name: str, first: int
) -> None:
    draws = RowDraws(SEED)
    draws.places = 1
    found = trained[world, name]["words"]
    assert len(found) == STEPS
    for step, words in enumerate(found):
        draws.begin_step(step)
        draws.begin_rows(first, len(words), torch.device("cpu"))
        assert words == draws.words(0, 0, len(words), 1).flatten().tolist()


def test_weights_when_resumed_at_the_same_size_then_bit_equal(
    trained: dict[tuple[int, str], dict[str, Any]],
) -> None:
    parts, whole = [trained[2, f"all {number}"] for number in (1, 2)], trained[2, "all"]
    assert [len(part["losses"]) for part in parts] == [STOP, STEPS - STOP]
    assert [loss for part in parts for loss in part["losses"]] == whole["losses"]
    assert [key for key, value in whole["weights"].items() if not torch.equal(value, parts[-1]["weights"][key])] == []


def test_network_when_it_draws_outside_of_a_module_then_refused_by_name(
    trained: dict[tuple[int, str], dict[str, Any]],
) -> None:
    error = trained[1, "refused"]["error"]
    assert error is not None
    assert error.startswith("64 the image tower draws random numbers in trunk (")
