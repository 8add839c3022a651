"""Runs the tests of a module against one mutant of it, in a forked child: heavy libraries are imported once.

The mutant lies in a copy of the project, so that programs which a test starts run it, too.

By hand: `python -m tests.mutation.driver [--set train] [--module NAME] [--count 300] [--seed 0]` prints each survivor;
`--guards` prints what kills each mutant.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import contextlib
import hashlib
import importlib
import os
import py_compile
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.mutation.mutants import Mutant, mutants, one_mutant
from tests.mutation.tests_of import SETS, tests_of

PROJECT = Path(__file__).parents[2]
CPU_SECONDS, SECONDS = 240, 900
"""A mutant whose tests take longer counts as killed: it hangs. CPU time, since a busy machine is no hang."""
COPIED = ("diht_k8s", "tests")
KILLER = "killer.txt"
GUARDS = Path(__file__).with_name("guards.tsv")
CHANGE = re.compile(r"\[(?P<before>(?:[^\[\]]|\[[^\[\]]*\])*?) -> (?P<after>(?:[^\[\]]|\[[^\[\]]*\])*?)\]")
_PRELOADED = (
    "numpy",
    "torch",
    "pydantic",
    "hypothesis",
    "mpmath",
    "kubernetes.client",
    "torchx.specs",
    "PIL.Image",
    "open_clip",
    "safetensors.torch",
    "torchvision",
    "deepspeed",
)


@dataclass(frozen=True)
class Outcome:
    """How the tests of a module took one mutant."""

    module: str
    change: str
    killed_by: str
    """the first test that failed, of those named first the cheapest; empty if none did."""

    def __str__(self) -> str:
        return f"{self.module.rpartition('.')[2]}: {self.change}"


def path_of(module: str) -> Path:
    """The source file of a module of this project."""
    return PROJECT / (module.replace(".", "/") + ".py")


def drawn(count: int, seed: int, modules: Sequence[str]) -> list[tuple[str, Mutant]]:
    """`count` mutants (or all there are) over all the modules, in a reproducible order.

    A mutant's place depends on its own text alone, so that an edit elsewhere in a module hardly changes the draw.
    """
    places: dict[str, tuple[str, Mutant]] = {}
    for module in modules:
        seen: Counter[tuple[str, str]] = Counter()
        for mutant in mutants(path_of(module).read_text()):
            change = (mutant.before, mutant.after)
            text = "\0".join([str(seed), module, *change, str(seen[change])])
            places[hashlib.sha256(text.encode()).hexdigest()] = module, mutant
            seen[change] += 1
    return [places[key] for key in sorted(places)[:count]]


@dataclass(frozen=True)
class Trial:
    """A changed module, and the tests that are to notice."""

    module: str
    change: str
    source: str
    tests: Sequence[str]


def scattered(count: int, seed: int) -> list[tuple[str, Mutant]]:
    """Mutants of modules that are drawn from the whole product, by the size of their sources."""
    rng = random.Random(seed)
    files = sorted((PROJECT / "diht_k8s").rglob("*.py"))
    found: list[tuple[str, Mutant]] = []
    while len(found) < count:
        file = rng.choices(files, [each.stat().st_size for each in files])[0]
        module = ".".join(file.relative_to(PROJECT).with_suffix("").parts)
        if mutant := one_mutant(file.read_text(), rng):
            found.append((module, mutant))
    return found


def trials(chosen: Sequence[tuple[str, Mutant]]) -> list[Trial]:
    """Each mutant with the tests of its module."""
    return [Trial(module, mutant.change, mutant.source, tests_of(module)) for module, mutant in chosen]


class Guard(NamedTuple):
    """A row of guards.tsv."""

    module: str
    change: str
    test: str
    command: str
    """the first of `make check`, `make test` and `make test-all` that runs the test."""


def guards() -> list[Guard]:
    return [Guard(*line.split("\t")) for line in GUARDS.read_text().splitlines()[1:]]


def planted() -> list[Trial]:
    """The faults of the table, each with its one test."""
    return [Trial(each.module, each.change, changed(each.module, each.change), [each.test]) for each in guards()]


def changed(module: str, change: str) -> str:
    """The source of a module with a change as `Mutant.change` has it."""
    before, after = (CHANGE.sub(rf"\g<{group}>", change, count=1) for group in ("before", "after"))
    lines = ast.unparse(ast.parse(path_of(module).read_text())).splitlines()
    places = [number for number, line in enumerate(lines) if line.strip() == before]
    if not places:
        raise LookupError(f"{module} has no line {before!r}: renew its row of guards.tsv")
    lines[places[0]] = lines[places[0]].replace(before, after)
    return "\n".join(lines)


def outcomes(chosen: Sequence[Trial]) -> Iterator[Outcome]:
    """Each changed module with what its tests said."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # small tensors: threads that wait for a CPU cost more than they give
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "DIHT_TEST_FORK": "1"}
    with contextlib.redirect_stdout(sys.stderr):  # DeepSpeed logs to what is stdout when it is imported
        for name in _PRELOADED:
            importlib.import_module(name)
    loaded = [name for name in sys.modules if name.startswith("diht_k8s.")]
    assert not loaded, f"imported before they could be mutated: {loaded}"
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        _copy_project(place)
        sound: set[str] = set()
        unfit: set[str] = set()
        for trial in chosen:
            yield Outcome(trial.module, trial.change, _killer(place, trial, sound, unfit))


def _killer(place: Path, trial: Trial, sound: set[str], unfit: set[str]) -> str:
    """The first test that fails with the change and passes without it, as `_failed_test` says it.

    One that fails without the change, too, needs more than the copy has, such as Git's history: it is unfit.
    """
    path = path_of(trial.module)
    changed = place / path.relative_to(PROJECT)
    if not trial.tests:
        return ""  # pytest would run all there are
    while True:
        changed.write_text(trial.source)
        killer = _failed_test(place, [*trial.tests, *(f"--deselect={each}" for each in sorted(unfit))])
        shutil.copy(path, changed)
        test = killer.partition("[")[0]
        if "::" not in killer or test in sound:
            return killer
        if not _failed_test(place, [test]):
            sound.add(test)
            return killer
        unfit.add(test)


def _copy_project(place: Path) -> None:
    """Programs of the copy find compiled files that name their source's hash: times are too coarse for mutants."""
    for entry in PROJECT.iterdir():
        if entry.name in COPIED:
            shutil.copytree(entry, place / entry.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif not entry.name.startswith("."):
            (place / entry.name).symlink_to(entry)
    compileall.compile_dir(place / "diht_k8s", quiet=1, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)


def _failed_test(place: Path, tests: Sequence[str]) -> str:
    """The first test that fails, or how else they end; empty if they pass."""
    killer = place / KILLER
    killer.write_text("")
    child = os.fork()
    if child == 0:
        _run_tests(place, tests)
    signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
    signal.alarm(SECONDS)
    try:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED):
            raise LookupError(f"no such test: {' '.join(tests)}")
        return (killer.read_text() or f"exit code {code}") if code else ""
    finally:
        signal.alarm(0)
        with contextlib.suppress(ProcessLookupError):  # what a test has started and left
            os.killpg(child, signal.SIGKILL)


def _run_tests(place: Path, tests: Sequence[str]) -> None:
    """In the child: never returns."""
    code = 1
    try:
        os.setpgid(0, 0)
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 1)
        os.dup2(devnull, 2)
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        os.chdir(place)
        os.environ["PYTHONPATH"] = str(place)
        sys.path[:] = [str(place), *(entry for entry in sys.path if entry not in ("", str(PROJECT)))]
        for name in [name for name in sys.modules if name.partition(".")[0] in COPIED]:
            del sys.modules[name]
        words = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", *tests]
        code = int(pytest.main(words, plugins=[_Killer(place / KILLER)]))
    finally:
        os._exit(code)


class _Killer:
    """A plugin that notes the test that fails, or the file that cannot be collected."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._file.write_text(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._file.write_text(report.nodeid)


def main() -> int:
    """Print each survivor and the share that was killed, or all outcomes as rows of the table of guards."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", choices=[*SETS, "all", "guards"], default="core", help="all: drawn from the product")
    parser.add_argument("--module", action="append")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guards", action="store_true", help="rows for guards.tsv instead: module, change, killer")
    given = parser.parse_args()
    os.chdir(PROJECT)
    killed = total = 0
    for outcome in outcomes(_chosen(given)):
        total, killed = total + 1, killed + bool(outcome.killed_by)
        if given.guards:
            print(outcome.module, outcome.change, outcome.killed_by, sep="\t", flush=True)
        elif not outcome.killed_by:
            print(outcome, flush=True)
    print(f"{killed} of {total} killed ({100 * killed / max(1, total):.1f} %)")
    return 0


def _chosen(given: argparse.Namespace) -> list[Trial]:
    if given.module or given.set in SETS:
        return trials(drawn(given.count, given.seed, given.module or sorted(SETS[given.set])))
    return planted() if given.set == "guards" else trials(scattered(given.count, given.seed))


if __name__ == "__main__":
    sys.exit(main())
