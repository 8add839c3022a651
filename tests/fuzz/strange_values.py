"""Strange values in one place of a document, drawn from a seed: what a program reports, or what somebody writes into a
status. Pure.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any, Final

STRANGE: Final[tuple[Any, ...]] = (
    None,
    True,
    False,
    -1,
    0,
    1,
    1.5,
    255,
    256,
    2**31 - 1,
    2**31,
    2**53 + 1,
    2**61,
    2**62 - 1,
    2**62,
    2**62 + 1,
    2**63,
    10**30,
    -(10**30),
    1e308,
    float("nan"),
    float("inf"),
    float("-inf"),
    "",
    " ",
    "x" * 63,
    "x" * 300,
    "1",
    "nan",
    "1e999",
    "²",
    "\u202e",
    "a\nb\x1b[2J",
    "😀" * 70,
    "mining",
    "label-mining",
    "train-wait",
    "label",
    "filter-",
    "-",
    "Mine",
    "Unknown",
    "Volcano",
    [],
    {},
    [[]],
    [None],
    {"": ""},
    {"x" * 70: 1.0, "x" * 71: 2.0},
    {"a": 1.0, "a\n": 2.0},
    "2026-13-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "0001-01-01T00:00:00Z",
    "yesterday",
)
"""A value of any type for any field."""


def mutated(document: Any, rng: random.Random, times: int = 3) -> Any:
    """The document with strange values, or without fields, in up to `times` places."""
    found = copy.deepcopy(document)
    for _ in range(rng.randint(1, times)):
        places = list(_places(found))
        if not places:
            break
        inner, key = rng.choice(places)
        if rng.random() < 0.2:
            del inner[key]
        else:
            inner[key] = copy.deepcopy(rng.choice(STRANGE))
    return found


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each container of a document with each of its keys."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    for key in keys:
        yield value, key
        yield from _places(value[key])
