"""Each parser names a function that takes what the parser reads, and the help shows each command in one group."""

from __future__ import annotations

import importlib
import inspect
import re

import pytest

from diht_k8s.cli.arguments import BENCHMARKS_IMPORT, make_parser, parsers_of

PARSERS = parsers_of(make_parser())


@pytest.mark.parametrize("command", PARSERS)
def test_function_of_a_command_takes_what_its_parser_reads(command: str) -> None:
    module, _, name = PARSERS[command].get_default("command").partition(":")
    function = getattr(importlib.import_module(f"diht_k8s.cli.{module}"), name)
    read = {action.dest for action in PARSERS[command]._actions} - {"help"}
    inspect.signature(function).bind(**dict.fromkeys(read))


def test_help_shows_each_command_in_one_group() -> None:
    shown = re.findall(r"^  ([a-z]+) ", make_parser().format_help(), re.M)
    assert sorted(shown) == sorted(PARSERS.keys() - {BENCHMARKS_IMPORT})
