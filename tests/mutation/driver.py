"""Runs the tests of a module against one mutant of it, in a forked child: heavy libraries are imported once.

The mutant lies in a copy of the project, so that programs which a test starts run it, too.

By hand: `python -m tests.mutation.driver [--set train] [--module NAME] [--count 300] [--seed 0]` prints each survivor.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import hashlib
import importlib
import os
import py_compile
import resource
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mutation.mutants import Mutant, mutants
from tests.mutation.tests_of import SETS

PROJECT = Path(__file__).parents[2]
CPU_SECONDS, SECONDS = 120, 900
"""A mutant whose tests take longer counts as killed: it hangs. CPU time, since a busy machine is no hang."""
TESTS = {module: tests for each in SETS.values() for module, tests in each.items()}
COPIED = ("diht_k8s", "tests")
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
    mutant: Mutant
    killed: bool

    def __str__(self) -> str:
        return f"{self.module.rpartition('.')[2]}: {self.mutant.change}"


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


def outcomes(chosen: Sequence[tuple[str, Mutant]], tests_of: Mapping[str, list[str]] = TESTS) -> Iterator[Outcome]:
    """Each mutant with what its tests said."""
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
        tests = sorted({test for module, _ in chosen for test in tests_of[module]})
        if _tests_fail(place, tests, CPU_SECONDS * len(tests)):
            raise RuntimeError(f"{' '.join(tests)} fail without a mutant: they would kill every one")
        for module, mutant in chosen:
            changed = place / path_of(module).relative_to(PROJECT)
            changed.write_text(mutant.source)
            yield Outcome(module, mutant, _tests_fail(place, tests_of[module]))
            shutil.copy(path_of(module), changed)


def _copy_project(place: Path) -> None:
    """Programs of the copy find compiled files that name their source's hash: times are too coarse for mutants."""
    for entry in PROJECT.iterdir():
        if entry.name in COPIED:
            shutil.copytree(entry, place / entry.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif not entry.name.startswith("."):
            (place / entry.name).symlink_to(entry)
    compileall.compile_dir(place / "diht_k8s", quiet=1, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)


def _tests_fail(place: Path, tests: Sequence[str], cpu_seconds: int = CPU_SECONDS) -> bool:
    child = os.fork()
    if child == 0:
        _run_tests(place, tests, cpu_seconds)
    signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
    signal.alarm(SECONDS * cpu_seconds // CPU_SECONDS)
    try:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0
    finally:
        signal.alarm(0)
        with contextlib.suppress(ProcessLookupError):  # what a test has started and left
            os.killpg(child, signal.SIGKILL)


def _run_tests(place: Path, tests: Sequence[str], cpu_seconds: int) -> None:
    """In the child: never returns."""
    code = 1
    try:
        os.setpgid(0, 0)
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 1)
        os.dup2(devnull, 2)
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
        os.chdir(place)
        os.environ["PYTHONPATH"] = str(place)
        sys.path[:] = [str(place), *(entry for entry in sys.path if entry not in ("", str(PROJECT)))]
        for name in [name for name in sys.modules if name.partition(".")[0] in COPIED]:
            del sys.modules[name]
        code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", *tests]))
    finally:
        os._exit(code)


def main() -> int:
    """Print survivors and the share that was killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", choices=sorted(SETS), default="core")
    parser.add_argument("--module", action="append", choices=sorted(TESTS))
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    os.chdir(PROJECT)
    killed = total = 0
    tests_of = TESTS if given.module else SETS[given.set]
    for outcome in outcomes(drawn(given.count, given.seed, given.module or sorted(tests_of)), tests_of):
        total, killed = total + 1, killed + outcome.killed
        if not outcome.killed:
            print(outcome, flush=True)
    print(f"{killed} of {total} killed ({100 * killed / max(1, total):.1f} %)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
