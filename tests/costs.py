"""What each test costs: `pytest --costs FILE` appends a line of JSON a test, with its seconds and CPU seconds.

`python -m tests.costs FILE` prints both by tier, then the dearest tests. CPU seconds count the processes that a test
waited for, not those that live on, such as a cluster's.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path

import pytest

DEAREST = 40


class Costs:
    """A plugin that appends what each test costs to a file."""

    def __init__(self, file: str) -> None:
        self._file = Path(file)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        wall, cpu = time.monotonic(), sum(os.times()[:4])
        result = yield
        cost = {"test": item.nodeid, "s": time.monotonic() - wall, "cpu_s": sum(os.times()[:4]) - cpu}
        with self._file.open("a") as lines:  # one short write: those of several workers do not mix
            lines.write(json.dumps(cost) + "\n")
        return result


def main(file: str) -> None:
    costs = [json.loads(line) for line in Path(file).read_text().splitlines()]
    tiers: dict[str, list[dict[str, float]]] = defaultdict(list)
    for cost in costs:
        tiers[cost["test"].split("/")[1]].append(cost)
    for tier, those in sorted(tiers.items()):
        print(f"{tier:10} {len(those):5} tests {_sum(those, 's'):7.0f} s {_sum(those, 'cpu_s'):7.0f} CPU s")
    for cost in sorted(costs, key=lambda each: -max(each["s"], each["cpu_s"]))[:DEAREST]:
        print(f"{cost['s']:6.1f} s {cost['cpu_s']:6.1f} CPU s  {cost['test']}")


def _sum(costs: list[dict[str, float]], key: str) -> float:
    return sum(each[key] for each in costs)


if __name__ == "__main__":
    main(*sys.argv[1:])
