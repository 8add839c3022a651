"""The `diht` command: reads the arguments, runs the command, returns its exit code.

`diht --help` must answer at once, so nothing heavy is imported here.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from diht_k8s.api.errors import DihtError, ExitCode, missing_package
from diht_k8s.cli.arguments import BENCHMARKS_IMPORT, make_parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code, with one line on stderr for each error that we expect."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:2] == ["benchmarks", "import"]:
        words[:2] = [BENCHMARKS_IMPORT]
    given = vars(make_parser().parse_args(words))
    command, extra, _ = (given.pop(name) for name in ("command", "extra", "of_command"))
    print(platform_note(sys.platform), end="", file=sys.stderr)
    try:
        module, _, function = command.partition(":")
        return getattr(importlib.import_module(f"diht_k8s.cli.{module}"), function)(**given)
    except DihtError as error:
        print(f"diht: {error}", file=sys.stderr)
        return error.exit_code
    except ImportError as error:
        print(f"diht: {missing_package(error, 'operator' if given.get('submit') else extra)}", file=sys.stderr)
        return ExitCode.USER_ERROR
    except KeyboardInterrupt:
        return ExitCode.STOPPED
    except BrokenPipeError:  # `diht ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.UNEXPECTED


def platform_note(platform: str) -> str:
    """One line on a system that is not Linux, on which the command is not tested; else nothing."""
    if platform == "linux":
        return ""
    return (
        f"diht: tested on Linux only, this is {platform}: check, plan and submit run documents here, and run the "
        "recipe in a container or on a cluster\n"
    )
