"""Runs the tests of a module against one mutant of it, in a forked child: heavy libraries are imported once.

By hand: `python -m tests.mutation.driver [--module NAME] [--count 300] [--seed 0]` prints each survivor.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.abc
import importlib.util
import os
import resource
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from tests.mutation.mutants import Mutant, mutants

PROJECT = Path(__file__).parents[2]
CPU_SECONDS, SECONDS = 120, 900
"""A mutant whose tests take longer counts as killed: it hangs. CPU time, since a busy machine is no hang."""
_OF_OBSERVATION = [
    "tests/unit/controller/test_observe.py",
    "tests/unit/controller/test_ends.py",
    "tests/unit/controller/test_runs.py",
    "tests/unit/controller/test_budget.py",
    "tests/unit/controller/test_own_times.py",
    "tests/unit/controller/test_nodes.py",
    "tests/unit/controller/test_ownership.py",
]
TESTS: dict[str, list[str]] = {
    "diht_k8s.pipeline.budget": ["tests/unit/pipeline"],
    "diht_k8s.pipeline.plan": ["tests/unit/pipeline"],
    "diht_k8s.pipeline.running_time": ["tests/unit/pipeline"],
    "diht_k8s.pipeline.states": ["tests/unit/pipeline"],
    "diht_k8s.controller.lost_pods": _OF_OBSERVATION,
    "diht_k8s.controller.observe": _OF_OBSERVATION,
    "diht_k8s.recipe.filter.text_spotting.matching": ["tests/unit/recipe/filter/test_matching.py"],
    "diht_k8s.recipe.train.data.sampler": ["tests/unit/recipe/train/test_sampler.py"],
    "diht_k8s.recipe.train.loss.losses": ["tests/unit/recipe/train/test_losses.py"],
    "diht_k8s.recipe.train.loss.hn_nce": ["tests/unit/recipe/train/test_losses.py"],
}
_PRELOADED = ("numpy", "torch", "pydantic", "hypothesis", "mpmath", "kubernetes.client", "torchx.specs", "PIL.Image")


@dataclass(frozen=True)
class Outcome:
    """How the tests of a module took one mutant."""

    module: str
    mutant: Mutant
    killed: bool

    def __str__(self) -> str:
        return f"{self.module.rpartition('.')[2]}: {self.mutant.change}"


class _Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds one module, with the mutant's source."""

    def __init__(self, name: str, source: str) -> None:
        self._name, self._source = name, source

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None):
        if fullname != self._name:
            return None
        return importlib.util.spec_from_loader(fullname, self, origin=str(path_of(fullname)))

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self._source, str(path_of(self._name)), "exec"), module.__dict__)


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


def outcomes(chosen: Sequence[tuple[str, Mutant]]) -> Iterator[Outcome]:
    """Each mutant with what its tests said."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # small tensors: threads that wait for a CPU cost more than they give
    for name in _PRELOADED:
        importlib.import_module(name)
    loaded = [name for name in sys.modules if name.startswith("diht_k8s.")]
    assert not loaded, f"imported before they could be mutated: {loaded}"
    for tests in {tuple(TESTS[module]) for module, _ in chosen}:
        if _tests_fail(None, tests):
            raise RuntimeError(f"{' '.join(tests)} fail without a mutant: they would kill every one")
    for module, mutant in chosen:
        yield Outcome(module, mutant, _tests_fail((module, mutant), TESTS[module]))


def _tests_fail(changed: tuple[str, Mutant] | None, tests: Sequence[str]) -> bool:
    child = os.fork()
    if child == 0:
        _run_tests(changed, tests)
    signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
    signal.alarm(SECONDS)
    try:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0
    finally:
        signal.alarm(0)


def _run_tests(changed: tuple[str, Mutant] | None, tests: Sequence[str]) -> None:
    """In the child: never returns."""
    code = 1
    try:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 1)
        os.dup2(devnull, 2)
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        if changed is not None:
            module, mutant = changed
            sys.meta_path.insert(0, _Mutated(module, mutant.source))
        code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", *tests]))
    finally:
        os._exit(code)


def main() -> int:
    """Print survivors and the share that was killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--module", action="append", choices=sorted(TESTS))
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    os.chdir(PROJECT)
    killed = total = 0
    for outcome in outcomes(drawn(given.count, given.seed, given.module or sorted(TESTS))):
        total, killed = total + 1, killed + outcome.killed
        if not outcome.killed:
            print(outcome, flush=True)
    print(f"{killed} of {total} killed ({100 * killed / max(1, total):.1f} %)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
