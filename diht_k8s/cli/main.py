"""The `diht` command: reads the arguments, imports what the command needs, returns its exit code.

`diht --help` must answer at once, so nothing heavy is imported here.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Final

from diht_k8s import __version__
from diht_k8s.api.steps import LABEL_STEPS
from diht_k8s.cli.cluster_commands import add_cluster_commands
from diht_k8s.cli.evaluation_commands import add_evaluation_commands

_STAGES: Final = ("filter", "label", "train", "evaluate")
_EXIT_CODES: Final = (
    "exit codes: 0 done or cached, 64 user error (configuration), 65 bad data, 75 passing fault (try again), "
    "143 stopped on request, 1 anything else"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except BrokenPipeError:  # `diht ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


class _Parser(argparse.ArgumentParser):
    """Wrong usage is a user error: exit code 64, not argparse's 2."""

    def exit(self, status: int = 0, message: str | None = None) -> None:  # type: ignore[override]
        super().exit(64 if status == 2 else status, message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="diht",
        description="The DiHT recipe: CAT filter, concept labels, training with hard negatives, evaluation.",
        epilog=_EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=f"diht {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_run(
        commands.add_parser("run", help="run all stages on this machine; goes on where it was", epilog=_EXIT_CODES)
    )
    _add_validate(commands.add_parser("validate", help="check a run document", epilog=_EXIT_CODES))
    _add_stage(commands.add_parser("stage", help="run one stage as one worker: what a pod runs", epilog=_EXIT_CODES))
    _add_parse(commands.add_parser("parse", help="show what the CAT filter sees in a caption"))
    _add_concepts(
        commands.add_parser("concepts", help="show the concepts of a run: commonest, rarest, cut", epilog=_EXIT_CODES)
    )
    _add_purge(
        commands.add_parser("purge", help="take pairs out of what a run has made (takedowns)", epilog=_EXIT_CODES)
    )
    add_evaluation_commands(commands)
    add_cluster_commands(commands, _add_set)
    return parser


def _add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set", action="append", default=[], metavar="PATH=VALUE", dest="overrides",
        help="change a field below spec, for example train.samples=1000; may be repeated",
    )  # fmt: skip


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Run all stages of a run document on this machine. Finished stages are cached, an interrupted one goes on. "
        "Relative paths in the document are taken from the current folder; a relative data.output from --workdir."
    )
    parser.add_argument("file", metavar="FILE", help="the run document (YAML or JSON)")
    parser.add_argument(
        "--workdir", metavar="DIR", help="folder for a relative data.output; the current folder if unset"
    )
    parser.add_argument("--until", choices=_STAGES, metavar="STAGE", help=f"end after this stage: {', '.join(_STAGES)}")
    _add_set(parser)
    parser.add_argument(
        "--replace", action="store_true",
        help="remove the output of stages whose configuration differs, and of the stages after them, and make it again",
    )  # fmt: skip
    parser.set_defaults(command=_run)


def _add_validate(parser: argparse.ArgumentParser) -> None:
    parser.description = "Check a run document by the API server's rules; names line, field and what to do."
    parser.add_argument("file", metavar="FILE", help="the run document (YAML or JSON)")
    _add_set(parser)
    parser.set_defaults(command=_validate)


def _add_stage(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Run one stage as one worker of several that share it. This is what runs inside a pod: the run document comes from "
        "--run or from the environment variable DIHT_RUN, worker and workers from DIHT_WORKER and DIHT_WORKERS. "
        "For train a worker is a node."
    )
    parser.add_argument("name", choices=_STAGES, metavar="STAGE", help=", ".join(_STAGES))
    parser.add_argument("--run", metavar="FILE", dest="file", help="the run document; DIHT_RUN holds one if unset")
    _add_set(parser)
    parser.add_argument("--worker", type=int, metavar="I", help="index of this worker, from 0")
    parser.add_argument("--workers", type=int, metavar="N", help="number of workers")
    parser.add_argument("--step", choices=LABEL_STEPS, default="", help="for label: do only this part of the stage")
    parser.set_defaults(command=_stage)


def _add_parse(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Show objects, attributes, relations, complexity and actions of captions, as the CAT filter sees them."
    )
    parser.add_argument("captions", nargs="+", metavar="CAPTION")
    parser.set_defaults(command=_parse)


def _add_concepts(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Show the concept classes that the stage label made of the captions: the commonest, the rarest kept, and what "
        "was cut and why. FILE is a run document or a vocabulary.json (a path or s3:// URI)."
    )
    parser.add_argument("file", metavar="FILE", help="a run document, or a vocabulary.json")
    _add_set(parser)
    parser.set_defaults(command=_concepts)


def _add_purge(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Take pairs out of the kept shards, scores and labels of a run, and update its markers. No stage of it may be running. "
        "An interrupted purge goes on when it is started again. A model that was trained on the pairs stays as it is."
    )
    parser.add_argument("file", metavar="FILE", help="the run document (YAML or JSON)")
    parser.add_argument(
        "--exclude", required=True, metavar="LIST",
        help="uids, SHA-256 of URLs or SHA-256 of images, one a line (a path or s3:// URI)",
    )  # fmt: skip
    _add_set(parser)
    parser.set_defaults(command=_purge)


def _run(options: argparse.Namespace) -> int:
    from diht_k8s.cli.running import run_command

    return run_command(
        options.file, overrides=options.overrides, workdir=options.workdir, until=options.until, replace=options.replace
    )


def _validate(options: argparse.Namespace) -> int:
    from diht_k8s.cli.validating import validate_command

    return validate_command(options.file, options.overrides)


def _stage(options: argparse.Namespace) -> int:
    from diht_k8s.cli.staging import stage_command

    return stage_command(options.name, options.file, options.overrides, options.worker, options.workers, options.step)


def _parse(options: argparse.Namespace) -> int:
    from diht_k8s.cli.parsing import parse_command

    return parse_command(options.captions)


def _purge(options: argparse.Namespace) -> int:
    from diht_k8s.cli.purging import purge_command

    return purge_command(options.file, options.exclude, options.overrides)


def _concepts(options: argparse.Namespace) -> int:
    from diht_k8s.cli.concepts import concepts_command

    return concepts_command(options.file, options.overrides)
