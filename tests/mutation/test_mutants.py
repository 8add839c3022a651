"""At least nine in ten mutants of the modules that must not be wrong are killed by the tests of their module."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutation.driver import TESTS, Outcome, path_of
from tests.mutation.known import KNOWN
from tests.mutation.mutants import mutants

PROJECT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("source", "after"),
    [
        ("a < b", ["a <= b"]),
        ("a and not b", ["a or not b", "a and b"]),
        ("x: Literal[3] = f(2)", ["x: Literal[3] = f(3)"]),
        ("def f() -> int:\n    return g(x + 1)", ["return None", "g(x - 1)", "g(x + 2)"]),
        ("'a' + b", []),
        ("if a:\n    b()", ["if not a:"]),
    ],
)
def test_mutants_change_one_place(source: str, after: list[str]) -> None:
    found = [mutant.source for mutant in mutants(source)]
    assert len(found) == len(after)
    for text in after:
        assert sum(text in mutant for mutant in found) == 1, found


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("modules", "count", "seed"), [("core", 300, 0), ("evaluate", 200, 1)])
def test_tests_kill_nine_mutants_in_ten(modules: str, count: int, seed: int) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.mutation.driver",
        "--set",
        modules,
        "--count",
        str(count),
        "--seed",
        str(seed),
    ]
    done = subprocess.run(
        command, cwd=PROJECT, env={**os.environ, "PYTHONPATH": str(PROJECT)}, capture_output=True, text=True, check=True
    )
    share = re.search(r"([0-9.]+) %\)$", done.stdout.strip())
    assert share is not None, done.stdout + done.stderr
    assert float(share[1]) >= 90, done.stdout
    survivors = done.stdout.strip().splitlines()[:-1]
    assert [survivor for survivor in survivors if survivor not in KNOWN] == []


@pytest.mark.slow
def test_known_survivors_are_mutants_of_today() -> None:
    named = {survivor.partition(":")[0] for survivor in KNOWN}
    modules = [module for module in TESTS if module.rpartition(".")[2] in named]
    names = {str(Outcome(module, each, False)) for module in modules for each in mutants(path_of(module).read_text())}
    assert KNOWN.keys() - names == set()
