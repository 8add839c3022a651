"""What the arguments of several commands share. Imports nothing heavy: `diht --help` must answer at once."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, Final

Commands = Any
"""argparse's object to which commands are added; its type has no public name."""
Command = Callable[[argparse.Namespace], int]
EXIT_CODES: Final = (
    "exit codes: 0 done or cached, 64 user error (configuration), 65 bad data, 75 transient error (try again), "
    "143 stopped on request, 1 anything else"
)
FILE: Final = "the run document (YAML or JSON)"


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help="print one JSON value in place of text")


def add_set(parser: argparse.ArgumentParser) -> None:
    """Add `--set`."""
    parser.add_argument(
        "--set", action="append", default=[], metavar="PATH=VALUE", dest="overrides",
        help="change a field below spec, for example train.samples=1000; may be repeated",
    )  # fmt: skip
