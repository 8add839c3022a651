"""Why a stage begins another folder, in words."""

from __future__ import annotations

from typing import Any

import pytest

from diht_k8s.runtime.inputs import why_new


def config(beta: float = 0.25, filtered: str = "f", taken: str = "", fields: str = "") -> dict[str, Any]:
    inputs = {"filter": filtered, **({"taken down": taken} if taken else {})}
    return {"stage": "train", "config": {"beta": beta, **dict.fromkeys(fields, 1)}, "inputs": inputs}


ONE, THREE = "1 pairs, leaving abc", "3 pairs, leaving def"


@pytest.mark.parametrize(
    ("before", "after", "complete", "why"),
    [
        (config(), config(), True, ""),
        (config(), config(beta=0.5), True, "new because train.beta 0.25 -> 0.5"),
        (config(), config(beta=0.5), False, "new because train.beta 0.25 -> 0.5"),
        (config(), config(taken=ONE), True, "new because a takedown removed 1 pair of its input"),
        (config(), config(taken=ONE), False, "begins again because a takedown removed 1 pair of its input"),
        (config(taken=ONE), config(taken=THREE), True, "new because a takedown removed 2 pairs of its input"),
        (
            config(),
            config(beta=1, taken=ONE),
            True,
            "new because a takedown removed 1 pair of its input; train.beta 0.25 -> 1",
        ),
        (
            config(filtered="g"),
            config(taken=ONE),
            True,
            'new because inputs.filter "g" -> "f"; inputs.taken down (default) -> "1 pairs, leaving abc"',
        ),
        (
            config(),
            config(fields="abcdefgh"),
            True,
            "new because " + "; ".join(f"train.{name} (default) -> 1" for name in "abcdef") + "; and 2 more",
        ),
    ],
)
def test_new_folder_is_explained_by_what_differs(
    before: dict[str, Any], after: dict[str, Any], complete: bool, why: str
) -> None:
    assert why_new(before, after, complete=complete) == why
