"""The name that a message suggests for an unknown one."""

from __future__ import annotations

import pytest

from diht_k8s.api.errors import nearest, suggestion

KNOWN = ("optimizer", "warmupSteps", "batchSize")


@pytest.mark.parametrize(
    ("name", "otherwise", "cutoff", "expected"),
    [
        ("optimzer", "", 0.6, "did you mean optimizer?"),
        ("batch", "", 0.6, "did you mean batchSize?"),
        ("batch", "see the docs", 0.9, "see the docs"),
        ("colour", "see the docs", 0.6, "see the docs"),
        ("colour", "", 0.6, ""),
    ],
)
def test_suggestion_is_the_nearest_name_or_what_else_helps(
    name: str, otherwise: str, cutoff: float, expected: str
) -> None:
    assert suggestion(name, KNOWN, otherwise, cutoff=cutoff) == expected


def test_no_name_is_near_where_none_is_known() -> None:
    assert nearest("optimizer", ()) is None
