"""Names and order of the variants of a run in a comparison."""

from __future__ import annotations

from typing import Any

import pytest

from diht_k8s.report.comparison import natural_order, variant_names, varying_fields

BASE: dict[str, Any] = {"filter": {"minActions": 0}, "train": {"samples": 100}}


def with_loss(beta: float, **more: Any) -> dict[str, Any]:
    return {**BASE, "train": {"samples": 100, "loss": {"beta": beta}}, **more}


def test_varying_fields_are_those_that_are_not_alike_everywhere() -> None:
    alone = {"train": {"samples": 100}}
    assert varying_fields([BASE, with_loss(0.5), alone]) == [
        ("filter.minActions", ["0", "0", "no filter"]),
        ("train.loss.beta", ["(default)", "0.5", "(default)"]),
    ]
    assert varying_fields([BASE, BASE]) == []


@pytest.mark.parametrize(
    ("names", "configurations", "expected"),
    [
        ([["a"], ["b"]], [BASE, with_loss(0.5)], ["a", "b"]),
        ([["a"], ["a"], ["a"]], [BASE, with_loss(0.5), with_loss(2)], ["a", "a (beta 0.5)", "a (beta 2)"]),
        ([["a"], ["a"]], [with_loss(0.5), BASE], ["a", "a (beta default)"]),
        ([["a"], ["a"]], [BASE, with_loss(1, filter={"x": 1}, label={"y": 1}, evaluate={"z": 1})], ["a", "a (2)"]),
        ([["a"], ["a"]], [BASE, with_loss(1, train={"model": "x" * 50})], ["a", "a (2)"]),
        ([["a1", "a2", "a3", "a4", "a5"], ["b", "b"]], [BASE, with_loss(1)], ["a1, a2, a3 and 2 more", "b"]),
    ],
)
def test_columns_of_one_name_are_told_apart_by_how_they_differ_from_the_first(
    names: list[list[str]], configurations: list[dict[str, Any]], expected: list[str]
) -> None:
    assert variant_names(names, varying_fields(configurations)) == expected


def test_natural_order_counts_and_puts_a_document_before_what_was_changed_in_it() -> None:
    ordered = [
        ("a", BASE),
        ("a", with_loss(0.5)),
        ("a", with_loss(2)),
        ("a", with_loss(10)),
        ("a-2", BASE),
        ("a-10", BASE),
    ]
    assert sorted(reversed(ordered), key=lambda each: natural_order(*each)) == ordered
