"""Trainings as processes side by side."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]


def shares(first: int, seeds: int, processes: int) -> list[tuple[int, int]]:
    """(first seed, number) of each process: neighbours, nearly equal."""
    bounds = [first + round(seeds * number / processes) for number in range(processes + 1)]
    return [(low, high - low) for low, high in pairwise(bounds) if high > low]


def run(commands: Sequence[Sequence[str]], processes: int) -> None:
    """Run commands, at most `processes` at once.

    Raises:
        SystemExit: one failed; with the code of the first such.
    """
    with ThreadPoolExecutor(processes) as pool:
        codes = list(pool.map(lambda command: subprocess.run(command, cwd=ROOT, check=False).returncode, commands))
    if any(codes):
        raise SystemExit(next(code for code in codes if code))
