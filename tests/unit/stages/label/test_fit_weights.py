"""Weights files against a network's names and shapes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diht_k8s.api.errors import UserError
from diht_k8s.stages.label.teacher_weights import fit_weights

EXPECTED = {
    "stem.weight": torch.zeros(4, 3),
    "bn.num_batches_tracked": torch.tensor(0),
    "head.weight": torch.zeros(10, 4),
}


def weights(**changes: Tensor | None) -> dict[str, Tensor]:
    found = {key: torch.ones_like(value) for key, value in EXPECTED.items()}
    for name, value in changes.items():
        key = name.replace("__", ".")
        if value is None:
            del found[key]
        else:
            found[key] = value
    return found


@pytest.mark.parametrize(
    ("given", "used"),
    [
        (weights(), {"stem.weight", "bn.num_batches_tracked", "head.weight"}),
        (weights(head__weight=None), {"stem.weight", "bn.num_batches_tracked"}),
        (weights(head__weight=torch.ones(7, 4)), {"stem.weight", "bn.num_batches_tracked"}),
        (weights(head__bias=torch.ones(10), bn__num_batches_tracked=None), {"stem.weight", "head.weight"}),
    ],
    ids=["all", "no-classifier", "other-classifier", "more-classifier"],
)
def test_fit_when_only_the_classifier_differs_then_the_rest_is_used(given: dict[str, Tensor], used: set[str]) -> None:
    assert set(fit_weights(EXPECTED, given, ("head",), "w")) == used


def test_fit_when_all_names_differ_but_order_and_shapes_agree_then_matched_by_order() -> None:
    given = {
        "_conv.weight": torch.full((4, 3), 2.0),
        "_b.num_batches_tracked": torch.tensor(7),
        "_fc.weight": torch.ones(10, 4),
    }
    fitted = fit_weights(EXPECTED, given, ("head",), "w")
    assert list(fitted) == list(EXPECTED)
    assert torch.equal(fitted["stem.weight"], given["_conv.weight"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (weights(stem__weight=None), "w does not fit the teacher: stem.weight is missing: check"),
        (weights(stem__weight=torch.ones(4, 5)), r"stem.weight is \(4, 5\), the network has \(4, 3\)"),
        (weights(extra__weight=torch.ones(1)), "extra.weight has no place in it"),
        ({"a.bias": torch.ones(4, 3), "b.x": torch.tensor(0), "c.weight": torch.ones(10, 4)}, "stem.weight is missing"),
    ],
    ids=["missing", "shape", "extra", "order-but-other-kind"],
)
def test_fit_when_weights_do_not_fit_then_the_first_key_is_named(given: dict[str, Tensor], message: str) -> None:
    with pytest.raises(UserError, match=message):
        fit_weights(EXPECTED, given, ("head",), "w")
