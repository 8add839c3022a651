"""Where the time went, on the page of a run."""

from __future__ import annotations

import json

import pytest

from diht_k8s.api.status import Goodput
from diht_k8s.pipeline.goodput import goodput_json
from diht_k8s.report.page import run_page, time_spent

SHOWN = Goodput(wall_seconds=7200, productive_seconds=7128, productive_percent="99.0", starting_seconds=72)

EVALUATED = {"stage": "evaluate", "samples": 48, "seconds": 287.0, "process_hours": 0.08}


def page(text: str) -> str:
    run = {"name": "a", "folder": "runs/a/0", "folders": {"evaluate": "evaluate/0"}, "time": time_spent(text)}
    return run_page("<!--run--><!--/run-->", {"run": run, "document": {}, "cost": [EVALUATED]})


def test_page_says_what_the_time_of_the_stages_before_went_to() -> None:
    text = goodput_json([("filter", Goodput(), 1), ("train", SHOWN, 2)])
    assert time_spent(text) == [
        {"stage": "train", "wall_seconds": 7200, "text": "99.0 % productive; 1.0 % starting in 2 attempts"}
    ]
    shown = page(text)
    assert "Where the time went" in shown
    assert (
        '<th scope="row">train</th><td class="num">2.0 h</td><td>99.0 % productive; 1.0 % starting in 2 attempts</td>'
        in shown
    )


@pytest.mark.parametrize("text", ["", "{", "3", "[3]", '[{"stage": "x"}]', json.dumps({"stage": 1})])
def test_page_without_an_account_that_can_be_read_leaves_the_section_out(text: str) -> None:
    assert time_spent(text) == []
    assert "Where the time went" not in page(text)


def test_page_of_a_run_shows_the_time_of_its_evaluation_too() -> None:
    run = {"name": "a", "folder": "runs/a/0", "folders": {"evaluate": "evaluate/0"}, "time": []}
    shared = "this report<!--evaluated--><!--/evaluated--> <!--cost--><!--/cost-->"
    shown = run_page(shared, {"run": run, "document": {}, "cost": [EVALUATED]})
    assert shown.startswith("this report, 4.8 min ")
    assert '<th scope="row">evaluate</th><td class="num">48</td><td class="num">4.8 min</td>' in shown
