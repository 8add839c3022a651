"""What the tests cost: seconds and CPU seconds by tier beside each tier's budget, and the dearest tests with their
share.

`pytest --costs FILE` appends a line of JSON a test; `python -m tests.costs FILE` prints the table of all lines.
CPU seconds count the processes that a test waited for, those of the fork server among them, and not those that live
on, such as a cluster's.
"""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from tests.recipe.train import fork_server

BUDGETS = {
    "unit": 240,
    "contract": 200,
    "fuzz": 45,
    "mutation": 5,
    "recipe": 950,
    "s3": 120,
    "browser": 30,
    "gpu": 5,
    "cluster": 140,
}
"""CPU seconds of each tier in `make test` on an idle machine of two cores: whoever adds a test makes room for it."""
DEAREST = 10


@dataclass
class Cost:
    """Of one test, with what its fixtures took before and after it."""

    test: str
    s: float = 0.0
    cpu_s: float = 0.0

    @property
    def tier(self) -> str:
        return self.test.split("/")[1]


def _cpu_seconds() -> float:
    return sum(os.times()[:4]) + fork_server.cpu_seconds()


class Costs:
    """A plugin: each process measures the phases of its tests, and the one that reports them keeps the sums."""

    def __init__(self, file: str, *, reports: bool) -> None:
        """`reports`: whether this process has the reports of all."""
        self._file, self._reports = Path(file), reports
        self._before = _cpu_seconds()
        self._found: dict[str, Cost] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        now = _cpu_seconds()
        report.cpu_s, self._before = now - self._before, now  # attributes of a report go to the reporting process, too
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        cost = self._found.setdefault(report.nodeid, Cost(report.nodeid))
        cost.s += report.duration
        cost.cpu_s += getattr(report, "cpu_s", 0.0)

    def pytest_sessionfinish(self) -> None:
        if not self._reports:
            return
        with self._file.open("a") as lines:
            lines.write("".join(f"{json.dumps(asdict(cost))}\n" for cost in self._found.values()))  # at once


def table(costs: Sequence[Cost]) -> Iterator[str]:
    """The lines that show what tests cost."""
    tiers: dict[str, list[Cost]] = defaultdict(list)
    for cost in costs:
        tiers[cost.tier].append(cost)
    yield f"{'tier':10} {'tests':>6} {'seconds':>8} {'CPU s':>6} {'budget':>6}"
    for tier, those in sorted(tiers.items()):
        cpu_s, budget = sum(each.cpu_s for each in those), BUDGETS.get(tier, 0)
        over = "  over its budget" if cpu_s > budget else ""
        yield f"{tier:10} {len(those):6} {sum(each.s for each in those):8.0f} {cpu_s:6.0f} {budget:6}{over}"
    total = sum(each.s for each in costs) or 1.0
    for cost in sorted(costs, key=lambda each: -each.s)[:DEAREST]:
        yield f"{cost.s:6.1f} s {100 * cost.s / total:4.1f} % {cost.cpu_s:6.1f} CPU s  {cost.test}"


def main(file: str) -> None:
    """Print the table of a file that `--costs` wrote."""
    print("\n".join(table([Cost(**json.loads(line)) for line in Path(file).read_text().splitlines()])))


if __name__ == "__main__":
    main(*sys.argv[1:])
