"""The reference page of the `diht` command, made from its parser: usage, arguments, and the extra that a command
needs.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Final

from diht_k8s.cli.arguments import make_parser, parsers_of

_HEAD: Final = """# Commands

Made from the parser of `diht`. `diht COMMAND --help` prints the same.

- **Exit codes**: 0 done or cached, 64 wrong configuration, 65 bad data, 75 transient error (start again), 143 stopped
  on request, 1 anything else. [Troubleshooting](../troubleshooting.md) says what to do.
- `--set PATH=VALUE` changes a field below `spec`, for example `--set train.samples=1000`.
- A command that lacks an extra names the line that installs it ([extras](../packages.md)).
"""


def page() -> str:
    """The whole page, Markdown."""
    return "\n".join([_HEAD, *(_section(parser) for parser in parsers_of(make_parser()).values())])


def _section(parser: argparse.ArgumentParser) -> str:
    parser.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=100)  # type: ignore[assignment]
    usage = parser.format_usage().removeprefix("usage: ").rstrip()
    extra = parser.get_default("extra")
    needs = "Needs no extra." if extra == "" else f"Needs the extra `{extra or 'recipe'}`."
    lines = [f"## {parser.prog}", "", parser.description or "", "", f"```text\n{usage}\n```", "", needs, ""]
    rows = list(_rows(parser))
    if rows:
        lines += ["| argument | meaning |", "|---|---|", *rows, ""]
    return "\n".join(lines)


def _rows(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        value = "" if action.nargs == 0 else str(action.metavar or action.dest.upper())
        names = ", ".join(f"`{f'{option} {value}'.strip()}`" for option in action.option_strings) or f"`{value}`"
        meaning = (action.help or "").replace("|", "\\|")
        choices = f" ({', '.join(map(str, action.choices))})" if action.choices and not action.metavar else ""
        yield f"| {names} | {meaning}{choices} |"
