"""`diht completion`: a script that completes commands, options and files in a shell."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any, Final

SHELLS: Final = ("bash", "zsh", "tcsh")
FILES: Final = ("FILE", "DIR", "SOURCE", "OUTPUT", "DATA", "RUN", "RUN|SHARDS", "FOLDER", "ROOT", "LIST", "TARGET")
"""Arguments that take a path."""


def add_completion(commands: Any, whole: argparse.ArgumentParser) -> None:
    """Add the command to a parser's commands.

    Args:
        commands: of the parser.
        whole: the parser whose commands are completed.
    """
    parser = commands.add_parser("completion", help="print a script that completes commands in a shell")
    parser.description = (
        "Print a script that completes commands, options and files. For bash: "
        "diht completion bash > ~/.local/share/bash-completion/completions/diht"
    )
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))
    parser.set_defaults(command=partial(_completion, whole))


def _completion(whole: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    import shtab

    for parser in parsers_of(whole).values():
        for action in parser._actions:
            if action.metavar in FILES:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(whole, options.shell))
    return 0


def parsers_of(whole: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parser of each command, by name."""
    found = [action for action in whole._actions if isinstance(action, argparse._SubParsersAction)]
    return {name: parser for action in found for name, parser in action.choices.items()}
