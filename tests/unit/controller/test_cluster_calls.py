"""Calls to the API server: lists come page by page, whatever an empty one looks like."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from diht_k8s.kube.client import pages


@pytest.mark.parametrize(
    ("answers", "found"),
    [
        ([([1, 2], "more"), ([3], "")], [1, 2, 3]),
        ([([], "")], []),
        ([(None, "")], []),
    ],
    ids=["two pages", "nothing", "nothing, as lists of metadata say it"],
)
def test_list_gives_the_items_of_all_pages(answers: list[tuple[Any, str]], found: list[int]) -> None:
    asked: list[Any] = []

    def listing(**options: Any) -> SimpleNamespace:
        asked.append(options.get("_continue"))
        items, token = answers[len(asked) - 1]
        return SimpleNamespace(status=200, data=json.dumps({"items": items, "metadata": {"continue": token}}))

    assert list(pages("list things", listing)) == found
    assert asked == [None, "more"][: len(answers)]
