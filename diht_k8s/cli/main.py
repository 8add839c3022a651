"""The `diht` command: reads the arguments, imports what the command needs, returns its exit code.

`diht --help` must answer at once, so nothing heavy is imported here.

What the command says on a system on which it is not tested.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

from diht_k8s import __version__
from diht_k8s.api.errors import DihtError, ExitCode, missing_package, suggestion
from diht_k8s.api.steps import LABEL_STEPS
from diht_k8s.cli.arguments import (
    EXIT_CODES,
    FILE,
    Commands,
    add_cluster_commands,
    add_corpus_commands,
    add_evaluate_commands,
    add_json,
    add_set,
)
from diht_k8s.cli.completion import add_completion
from diht_k8s.cli.imports import COMMAND, add_pair_import
from diht_k8s.cli.onboarding.doctor import add_doctor
from diht_k8s.cli.onboarding.init import add_init
from diht_k8s.cli.packaged import add_packaged


def platform_note(platform: str) -> str:
    """What to know on a system that is not Linux: one line, else nothing."""
    if platform == "linux":
        return ""
    return (
        f"diht: tested on Linux only, this is {platform}: check, plan and submit run documents here, and run the recipe in a "
        "container or on a cluster\n"
    )


_STAGES: Final = ("filter", "label", "train", "evaluate")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code, with one line on stderr for each error that we expect."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:2] == ["benchmarks", "import"]:
        words[:2] = [COMMAND]
    options = make_parser().parse_args(words)
    print(platform_note(sys.platform), end="", file=sys.stderr)
    try:
        return options.command(options)
    except DihtError as error:
        print(f"diht: {error}", file=sys.stderr)
        return error.exit_code
    except ImportError as error:
        print(f"diht: {missing_package(error, options.extra)}", file=sys.stderr)
        return ExitCode.USER_ERROR
    except KeyboardInterrupt:
        return ExitCode.STOPPED
    except BrokenPipeError:  # `diht ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.UNEXPECTED


class _DihtParser(argparse.ArgumentParser):
    """Wrong usage is a user error: exit code 64, not argparse's 2."""

    def exit(self, status: int = 0, message: str | None = None) -> None:  # type: ignore[override]
        super().exit(64 if status == 2 else status, message)

    def error(self, message: str) -> NoReturn:
        """Name the command nearest to an unknown one, where argparse would list them all."""
        unknown = re.match(r"argument COMMAND: invalid choice: '(.*)' \(choose from (.*)\)$", message)
        if unknown is None:
            super().error(message)
        commands = unknown[2].replace("'", "").split(", ")
        hint = suggestion(unknown[1], commands, "`diht --help` lists the commands")
        super().error(f"unknown command {unknown[1]!r}: {hint}")


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands; the reference page is made from it."""
    parser = _DihtParser(
        prog="diht",
        description="The DiHT recipe: CAT filter, concept labels, training with hard negatives, evaluation.",
        epilog=EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=f"diht {__version__}")
    parser.set_defaults(extra="recipe")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    add_pair_import(commands)
    add_init(commands)
    _add_run(commands)
    _add_validate(commands)
    add_doctor(commands)
    _add_estimate(commands)
    _add_stage(commands)
    add_corpus_commands(commands)
    add_evaluate_commands(commands)
    add_cluster_commands(commands)
    add_completion(commands, parser)
    add_packaged(commands)
    return parser


def _add_run(commands: Commands) -> None:
    parser = commands.add_parser(
        "run", help="run all stages on this machine; resumes an interrupted run", epilog=EXIT_CODES
    )
    parser.description = (
        "Run all stages of a run document on this machine. Finished stages are cached, an interrupted one resumes. "
        "Relative paths in the document are taken from the current folder; a relative data.output from --workdir."
    )
    parser.add_argument("file", metavar="FILE", help=FILE)
    parser.add_argument(
        "--workdir", metavar="DIR", help="folder for a relative data.output; the current folder if unset"
    )
    parser.add_argument("--until", choices=_STAGES, metavar="STAGE", help=f"end after this stage: {', '.join(_STAGES)}")
    add_set(parser)
    parser.add_argument(
        "--replace", action="store_true",
        help="remove what stages whose configuration differs, and the stages after them, have written, and make it again; "
        "other files in their folders stay",
    )  # fmt: skip
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> int:
    from diht_k8s.cli.run import run_command

    return run_command(
        options.file, overrides=options.overrides, workdir=options.workdir, until=options.until, replace=options.replace
    )


def _add_validate(commands: Commands) -> None:
    parser = commands.add_parser("validate", help="check a run document", epilog=EXIT_CODES)
    parser.description = "Check a run document by the API server's rules; names line, field and what to do."
    parser.add_argument("file", metavar="FILE", help=FILE)
    parser.add_argument(
        "--gpu", metavar="NAME",
        help="warn if the training does not fit on this GPU or the pods' CPUs cannot feed it; else that of its node selector",
    )  # fmt: skip
    add_set(parser)
    add_json(parser)
    parser.set_defaults(command=_validate, extra="")


def _validate(options: argparse.Namespace) -> int:
    from diht_k8s.cli.document import validate_command

    return validate_command(options.file, options.overrides, options.gpu, as_json=options.json)


def _add_estimate(commands: Commands) -> None:
    parser = commands.add_parser(
        "estimate", help="say whether a training fits on a GPU, and how long it takes", epilog=EXIT_CODES
    )
    parser.description = (
        "Estimate the training of a run document on a GPU: memory of a rank by part, the largest micro-batch, host "
        "memory, FLOPs, samples/s, days and GPU hours. Nothing runs and no GPU is needed. Exit code 64 if it does not fit."
    )
    parser.add_argument("file", metavar="FILE", help=FILE)
    parser.add_argument(
        "--gpu", required=True, metavar="NAME", help="H100, A100-80, L40S, ...; an unknown name lists all"
    )
    parser.add_argument("--nodes", type=int, metavar="N", help="pods of the gang; train.numNodes if unset")
    parser.add_argument(
        "--mfu", type=float, default=0.45, metavar="SHARE",
        help="share of the GPU's peak at which it computes (0.45); recomputed activations count as work",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object; memory in bytes")
    add_set(parser)
    parser.set_defaults(command=_estimate)


def _estimate(options: argparse.Namespace) -> int:
    from diht_k8s.cli.estimate import estimate_command

    return estimate_command(
        options.file, options.overrides, options.gpu,
        nodes=options.nodes, utilisation=options.mfu, as_json=options.json,
    )  # fmt: skip


def _add_stage(commands: Commands) -> None:
    parser = commands.add_parser("stage", help="run one stage as one worker: what a pod runs", epilog=EXIT_CODES)
    parser.description = (
        "Run one stage as one worker of several that share it. This is what runs inside a pod: the run document comes "
        "from --run or from the environment variable DIHT_RUN, worker and workers from DIHT_WORKER and DIHT_WORKERS. "
        "For train a worker is a node."
    )
    parser.add_argument("name", choices=_STAGES, metavar="STAGE", help=", ".join(_STAGES))
    parser.add_argument("--run", metavar="FILE", dest="file", help="the run document; DIHT_RUN holds one if unset")
    add_set(parser)
    parser.add_argument("--worker", type=int, metavar="I", help="index of this worker, from 0")
    parser.add_argument("--workers", type=int, metavar="N", help="number of workers")
    parser.add_argument(
        "--step", choices=LABEL_STEPS, default="",
        help="for label: run only this step; only predict is shared by workers",
    )  # fmt: skip
    parser.set_defaults(command=_stage)


def _stage(options: argparse.Namespace) -> int:
    from diht_k8s.cli.stage import stage_command

    return stage_command(options.name, options.file, options.overrides, options.worker, options.workers, options.step)
