"""A benchmark's command line; `--help` shows the module's docstring."""

from __future__ import annotations

import argparse
import re
import textwrap


class _Paragraphs(argparse.HelpFormatter):
    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(_filled(block, width, indent) for block in text.strip().split("\n\n"))


def _filled(block: str, width: int, indent: str) -> str:
    if block.startswith(" "):  # a command
        return textwrap.indent(block, indent)
    return "\n".join(
        textwrap.fill(
            " ".join(item.split()),
            width,
            initial_indent=indent,
            break_on_hyphens=False,
            subsequent_indent=indent + "  " * item.startswith("- "),
        )
        for item in re.split(r"\n(?=- )", block)
    )


def make_parser(name: str, story: str | None) -> argparse.ArgumentParser:
    """The parser of `benchmarks/run NAME`.

    Args:
        name: of the benchmark.
        story: its module's docstring.
    """
    return argparse.ArgumentParser(prog=f"benchmarks/run {name}", description=story, formatter_class=_Paragraphs)
