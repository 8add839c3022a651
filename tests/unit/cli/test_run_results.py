"""What `diht run` says at its end: the result, and where it lies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from diht_k8s.api.errors import UserError
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.cli.results import result_lines
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.run_folder import run_folder
from tests.folders import planted
from tests.unit.api.documents import changed

FUNNEL = [
    {"step": "input", "samples": 7842, "dropped": 0},
    {"step": "objects", "samples": 6900, "dropped": 942},
    {"step": "text", "samples": 6326, "dropped": 574},
]
SIDE = {"recall": {"5": 0.286}, "interval": {"5": [0.24, 0.33]}, "chance": {"5": 0.01}}
BENCHMARK = {"name": "new", "type": "Retrieval", "pictures": 500, "text_to_image": SIDE, "image_to_text": SIDE}


@pytest.fixture
def run(tmp_path: Path) -> DihtRun:
    return DihtRun.model_validate(changed(spec__data__output=str(tmp_path / "out")))


def write(uri: str, content: Any) -> None:
    Storage().write_bytes(uri, (content if isinstance(content, str) else json.dumps(content)).encode())


def test_whole_run_says_what_its_page_says_first_and_where_it_lies(run: DihtRun) -> None:
    write(f"{run_folder(run)}/report.json", {"benchmarks": [BENCHMARK]})
    said, place, address = result_lines(run, None, "run.yaml")
    assert "within the first five in 28.6" in said
    assert place == f"report: {Path(run_folder(run)).resolve()}/report.html"
    assert address.strip().startswith("file:///")


def test_run_until_the_filter_shows_what_each_rule_left(run: DihtRun) -> None:
    write(planted(run, Stage.FILTER).report(Stage.FILTER), {"funnel": FUNNEL})
    lines = result_lines(run, Stage.FILTER, "my run.yaml")
    assert [" ".join(line.split()) for line in lines] == [
        "rule left dropped",
        "Raw pairs 7,842 0",
        "Enough objects 6,900 942",
        "No painted caption (T) 6,326 574",
        "why a pair was kept or dropped: diht explain 'my run.yaml' [NAME]",
        f"output: {run.spec.data.output}",
    ]
    assert len({len(line) for line in lines[:4]}) == 1, "columns"


def test_damaged_report_is_named(run: DihtRun) -> None:
    write(f"{run_folder(run)}/report.json", "{")
    with pytest.raises(UserError, match=r"report\.json is damaged"):
        result_lines(run, None, "run.yaml")
