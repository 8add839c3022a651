"""At least nine in ten mutants of the modules that must not be wrong are killed by the tests of their module."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutation.driver import Outcome, changed, guards, path_of
from tests.mutation.known import KNOWN
from tests.mutation.mutants import mutants
from tests.mutation.tests_of import SETS

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


def test_table_of_guards_is_of_today_and_few_wait_for_test_all() -> None:
    found = guards()
    for guard in found:
        assert changed(guard.module, guard.change)
        path, _, name = guard.test.partition("::")
        assert not name or f"def {name}(" in (PROJECT / path).read_text()
    assert sum(guard.command == "test-all" for guard in found) <= 0.15 * len(found)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_each_guard_kills_its_mutant() -> None:
    done = driver("--set", "guards")
    assert done[:-1] == [], "survivors"


def driver(*arguments: str) -> list[str]:
    """The lines that the driver prints, in an interpreter that has not imported the product."""
    command = [sys.executable, "-m", "tests.mutation.driver", *arguments]
    env = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("modules", "count", "seed"), [("core", 300, 0), ("evaluate", 200, 1)])
def test_tests_kill_nine_mutants_in_ten(modules: str, count: int, seed: int) -> None:
    *survivors, sums = driver("--set", modules, "--count", str(count), "--seed", str(seed))
    share = re.search(r"([0-9.]+) %\)$", sums)
    assert share is not None, sums
    assert float(share[1]) >= 90, survivors
    assert [survivor for survivor in survivors if survivor not in KNOWN] == []


@pytest.mark.slow
def test_known_survivors_are_mutants_of_today() -> None:
    named = {survivor.partition(":")[0] for survivor in KNOWN}
    modules = [module for table in SETS.values() for module in table if module.rpartition(".")[2] in named]
    names = {
        str(Outcome(module, each.change, "")) for module in modules for each in mutants(path_of(module).read_text())
    }
    assert KNOWN.keys() - names == set()
