"""`--json`: every command that prints results has it, and prints one JSON value on stdout."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diht_k8s.cli.arguments import make_parser, parsers_of
from tests.recipe.imports.loose_pairs import in_folder
from tests.recipe.inspection.data import diht

WITHOUT = {"run", "sweep", "stage", "submit", "watch", "logs", "plan", "retry", "cancel", "completion"} | {
    "schema",
    "crd",
    "samples",
    "chart",
}
"""They run something, print logs, a script, documents or YAML objects."""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_command_that_prints_results_has_it() -> None:
    parsers = parsers_of(make_parser())
    having = {name for name, parser in parsers.items() if "--json" in parser.format_help()}
    assert having == set(parsers) - WITHOUT


RESULTS: dict[str, Callable[[Any], bool]] = {
    "diht parse dogs": lambda found: found[0]["objects"] == ["dog"],
    "diht benchmarks --list vtab": lambda found: all({"name", "type", "metric"} <= set(entry) for entry in found),
    "diht list .": lambda found: found == [],
    "diht import photos data/photos": lambda found: found["samples"] == 40,
    "diht init data/photos": lambda found: (
        (found["file"], found["run"], found["for"]) == ("run.yaml", "photos", "laptop")
    ),
    "diht validate run.yaml": lambda found: found["valid"] and found["problems"] == [],
    "diht validate run.yaml --set train.samples=1": lambda found: found["problems"][0]["field"] == "spec.train.samples",
}


def test_results_are_one_json_value(capsys: pytest.CaptureFixture[str]) -> None:
    in_folder(Path("photos"), 40)
    for command, fits in RESULTS.items():
        _, out, _ = diht(capsys, f"{command} --json")
        assert fits(json.loads(out)), (command, out)


def test_completion_is_a_script_that_the_shell_accepts_and_that_knows_the_commands(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, script, _ = diht(capsys, "diht completion bash")
    assert code == 0
    assert "import" in script
    assert "--caption-column" in script
    asked = f"{script}\nCOMP_WORDS=(diht doc); COMP_CWORD=1; _shtab_diht; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["doctor"]
