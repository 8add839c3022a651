"""`diht completion`: the script that completes commands, options and files in a shell."""

from __future__ import annotations

import argparse
from typing import Final

import shtab

from diht_k8s.api.errors import ExitCode
from diht_k8s.cli.arguments import BENCHMARKS_IMPORT, parsers_of

FILES: Final = ("FILE", "DIR", "SOURCE", "OUTPUT", "DATA", "RUN", "RUN|SHARDS", "FOLDER", "ROOT", "LIST", "TARGET")
"""Arguments that take a path."""


def completion_command(whole: argparse.ArgumentParser, shell: str) -> int:
    """Print the script; the exit code.

    Args:
        whole: the parser whose commands are completed.
        shell: one of `SHELLS`.
    """
    parsers = parsers_of(whole)
    del parsers[BENCHMARKS_IMPORT]  # nobody types it
    for parser in parsers.values():
        for action in parser._actions:
            if action.metavar in FILES:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(whole, shell))
    return ExitCode.DONE
