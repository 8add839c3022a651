"""The `diht` command: reads the arguments, imports what the command needs, returns its exit code.

`diht --help` must answer at once, so nothing heavy is imported here.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

from diht_k8s import __version__
from diht_k8s.api.errors import DihtError, ExitCode, missing_package
from diht_k8s.api.steps import LABEL_STEPS
from diht_k8s.cli.imports import COMMAND, add_import
from diht_k8s.cli.packaged import add_packaged
from diht_k8s.cli.systems import platform_note

_STAGES: Final = ("filter", "label", "train", "evaluate")
_EXIT_CODES: Final = (
    "exit codes: 0 done or cached, 64 user error (configuration), 65 bad data, 75 transient error (try again), "
    "143 stopped on request, 1 anything else"
)
_FILE: Final = "the run document (YAML or JSON)"

_Commands = Any
"""argparse's object to which commands are added; its type has no public name."""
_Command = Callable[[argparse.Namespace], int]


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


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands; the reference page is made from it."""
    parser = _DihtParser(
        prog="diht",
        description="The DiHT recipe: CAT filter, concept labels, training with hard negatives, evaluation.",
        epilog=_EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=f"diht {__version__}")
    parser.set_defaults(extra="recipe")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_run(commands)
    _add_validate(commands)
    _add_estimate(commands)
    _add_stage(commands)
    _add_corpus_commands(commands)
    _add_evaluate_commands(commands)
    _add_cluster_commands(commands)
    add_packaged(commands)
    return parser


def _add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set", action="append", default=[], metavar="PATH=VALUE", dest="overrides",
        help="change a field below spec, for example train.samples=1000; may be repeated",
    )  # fmt: skip


def _add_run(commands: _Commands) -> None:
    parser = commands.add_parser(
        "run", help="run all stages on this machine; resumes an interrupted run", epilog=_EXIT_CODES
    )
    parser.description = (
        "Run all stages of a run document on this machine. Finished stages are cached, an interrupted one resumes. "
        "Relative paths in the document are taken from the current folder; a relative data.output from --workdir."
    )
    parser.add_argument("file", metavar="FILE", help=_FILE)
    parser.add_argument(
        "--workdir", metavar="DIR", help="folder for a relative data.output; the current folder if unset"
    )
    parser.add_argument("--until", choices=_STAGES, metavar="STAGE", help=f"end after this stage: {', '.join(_STAGES)}")
    _add_set(parser)
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


def _add_validate(commands: _Commands) -> None:
    parser = commands.add_parser("validate", help="check a run document", epilog=_EXIT_CODES)
    parser.description = "Check a run document by the API server's rules; names line, field and what to do."
    parser.add_argument("file", metavar="FILE", help=_FILE)
    parser.add_argument(
        "--gpu", metavar="NAME",
        help="warn if the training does not fit on this GPU or the pods' CPUs cannot feed it; else that of its node selector",
    )  # fmt: skip
    _add_set(parser)
    parser.set_defaults(command=_validate, extra="")


def _validate(options: argparse.Namespace) -> int:
    from diht_k8s.cli.document import validate_command

    return validate_command(options.file, options.overrides, options.gpu)


def _add_estimate(commands: _Commands) -> None:
    parser = commands.add_parser(
        "estimate", help="say whether a training fits on a GPU, and how long it takes", epilog=_EXIT_CODES
    )
    parser.description = (
        "Estimate the training of a run document on a GPU: memory of a rank by part, the largest micro-batch, host "
        "memory, FLOPs, samples/s, days and GPU hours. Nothing runs and no GPU is needed. Exit code 64 if it does not fit."
    )
    parser.add_argument("file", metavar="FILE", help=_FILE)
    parser.add_argument(
        "--gpu", required=True, metavar="NAME", help="H100, A100-80, L40S, ...; an unknown name lists all"
    )
    parser.add_argument("--nodes", type=int, metavar="N", help="pods of the gang; train.numNodes if unset")
    parser.add_argument(
        "--mfu", type=float, default=0.45, metavar="SHARE",
        help="share of the GPU's peak at which it computes (0.45); recomputed activations count as work",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object; memory in bytes")
    _add_set(parser)
    parser.set_defaults(command=_estimate)


def _estimate(options: argparse.Namespace) -> int:
    from diht_k8s.cli.estimate import estimate_command

    return estimate_command(
        options.file, options.overrides, options.gpu,
        nodes=options.nodes, utilisation=options.mfu, as_json=options.json,
    )  # fmt: skip


def _add_stage(commands: _Commands) -> None:
    parser = commands.add_parser("stage", help="run one stage as one worker: what a pod runs", epilog=_EXIT_CODES)
    parser.description = (
        "Run one stage as one worker of several that share it. This is what runs inside a pod: the run document comes "
        "from --run or from the environment variable DIHT_RUN, worker and workers from DIHT_WORKER and DIHT_WORKERS. "
        "For train a worker is a node."
    )
    parser.add_argument("name", choices=_STAGES, metavar="STAGE", help=", ".join(_STAGES))
    parser.add_argument("--run", metavar="FILE", dest="file", help="the run document; DIHT_RUN holds one if unset")
    _add_set(parser)
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


def _add_corpus_commands(commands: _Commands) -> None:
    parse = commands.add_parser("parse", help="show what the CAT filter sees in a caption")
    parse.description = (
        "Show objects, attributes, relations, complexity and actions of captions, as the CAT filter sees them."
    )
    parse.add_argument("captions", nargs="+", metavar="CAPTION")
    parse.set_defaults(command=_parse)

    concepts = commands.add_parser(
        "concepts", help="show the concepts of a run: commonest, rarest, cut", epilog=_EXIT_CODES
    )
    concepts.description = (
        "Show the concept classes that the stage label made of the captions: the commonest, the rarest kept, and what "
        "was cut and why. FILE is a run document or a vocabulary.json (a path or s3:// URI)."
    )
    concepts.add_argument("file", metavar="FILE", help="a run document, or a vocabulary.json")
    _add_set(concepts)
    concepts.set_defaults(command=_concepts)

    purge = commands.add_parser("purge", help="take pairs out of a run's output (takedowns)", epilog=_EXIT_CODES)
    purge.description = (
        "Take pairs out of the kept shards, scores and labels of a run, and update its markers. No stage of the run may "
        "be running. Start an interrupted purge again to finish it. A model that was trained on the pairs stays as it is."
    )
    purge.add_argument("file", metavar="FILE", help=_FILE)
    purge.add_argument(
        "--exclude", required=True, metavar="LIST",
        help="uids, SHA-256 of URLs or SHA-256 of images, one a line (a path or s3:// URI)",
    )  # fmt: skip
    _add_set(purge)
    purge.set_defaults(command=_purge)


def _parse(options: argparse.Namespace) -> int:
    from diht_k8s.cli.corpus import parse_command

    return parse_command(options.captions)


def _concepts(options: argparse.Namespace) -> int:
    from diht_k8s.cli.corpus import concepts_command

    return concepts_command(options.file, options.overrides)


def _purge(options: argparse.Namespace) -> int:
    from diht_k8s.cli.corpus import purge_command

    return purge_command(options.file, options.exclude, options.overrides)


def _add_evaluate_commands(commands: _Commands) -> None:
    benchmarks = commands.add_parser("benchmarks", help="list known benchmarks and those in a folder; import others")
    benchmarks.description = (
        "List the benchmarks of a catalogue; with ROOT, say which lie below it (ROOT/NAME/test/*.tar, the layout of "
        "clip-benchmark), and what else lies there in this layout. --yaml prints the complete ones of the catalogue as "
        "spec.evaluate.benchmarks of a run document. `diht benchmarks import SOURCE OUTPUT` writes a data set on disk "
        "in this layout (see its --help)."
    )
    benchmarks.add_argument("root", metavar="ROOT", nargs="?", help="folder or s3:// prefix that holds benchmarks")
    benchmarks.add_argument(
        "--list", default="diht29", dest="catalogue", metavar="NAME", help="diht29 (default), datacomp38 or vtab"
    )
    benchmarks.add_argument(
        "--only", action="append", default=[], metavar="NAME",
        help="this benchmark only, one of the list or a folder below ROOT; may be repeated",
    )  # fmt: skip
    benchmarks.add_argument("--yaml", action="store_true", help="print a part of a run document")
    benchmarks.set_defaults(command=_benchmarks)
    add_import(commands)

    convert = commands.add_parser("convert", help="write a model in another layout")
    convert.description = (
        "Write a model in another layout. SOURCE is a folder with open_clip_config.json, a checkpoint file "
        "(.safetensors, .pt, .pth, .bin, or a released DiHT .ckpt) or an open_clip NAME/TAG. TARGET is a folder "
        "(open_clip's layout), a file NAME.safetensors (weights alone) or NAME.ckpt (the released DiHT layout; its "
        "SHA-256 becomes part of the name)."
    )
    convert.add_argument("source", metavar="SOURCE")
    convert.add_argument("target", metavar="TARGET")
    convert.add_argument(
        "--architecture", metavar="NAME",
        help="open_clip's name of the architecture, for a checkpoint file whose shapes do not determine it",
    )  # fmt: skip
    convert.set_defaults(command=_convert)

    report = commands.add_parser("report", help="compare the evaluations of several runs side by side")
    report.description = (
        "Compare evaluations side by side: a table on stdout and a page. Each RUN is a run's output folder, or its "
        "report.json. Runs that differ only in their seed share one column, which shows their spread. "
        "Differences to the first RUN are paired over the images and tested."
    )
    report.add_argument("runs", metavar="RUN", nargs="+")
    report.add_argument("--output", metavar="FILE", default="comparison.html", help="the page (comparison.html)")
    report.set_defaults(command=_report)


def _benchmarks(options: argparse.Namespace) -> int:
    from diht_k8s.cli.evaluate import benchmarks_command

    return benchmarks_command(options.catalogue, options.root, options.only, as_yaml=options.yaml)


def _convert(options: argparse.Namespace) -> int:
    from diht_k8s.cli.evaluate import convert_command

    return convert_command(options.source, options.target, options.architecture)


def _report(options: argparse.Namespace) -> int:
    from diht_k8s.cli.evaluate import report_command

    return report_command(options.runs, options.output)


def _add_cluster_commands(commands: _Commands) -> None:
    submit = _add_for_file(commands, "submit", "send a run to the cluster, or change it there", _submit)
    submit.add_argument("--dry-run", action="store_true", help="only ask the cluster whether it accepts the run")
    _add_for_name(commands, "watch", "follow a run until it has ended", _watch)
    logs = _add_for_name(commands, "logs", "print the logs of a stage's newest attempt", _logs)
    logs.add_argument(
        "stage", nargs="?", metavar="STAGE", help="filter, label, train, evaluate, or a step: label-heads"
    )
    logs.add_argument("-f", "--follow", action="store_true", help="keep printing new lines (of the first pod)")
    logs.add_argument("--tail", type=int, metavar="LINES", help="only the last lines")
    _add_for_name(commands, "why", "say in one sentence what a run does, or why it does not", _why)
    plan = _add_for_file(commands, "plan", "print every object that a run would create, without a cluster", _plan)
    plan.add_argument("--gpu", metavar="NAME", help="also estimate the training on this GPU (see diht estimate)")
    plan.add_argument("--show-secrets", action="store_true", help="print literal values of pods.env too")
    _add_for_name(commands, "retry", "resume a run that failed", _retry)
    _add_for_name(commands, "cancel", "delete a run; what it finished stays", _cancel)


def _add_for_name(commands: _Commands, name: str, says: str, command: _Command) -> argparse.ArgumentParser:
    """A command on a run that the cluster has."""
    parser = commands.add_parser(name, help=says, description=f"{says[0].upper()}{says[1:]}.")
    parser.add_argument("name", metavar="NAME", help="name of the run")
    return _finish(parser, command)


def _add_for_file(commands: _Commands, name: str, says: str, command: _Command) -> argparse.ArgumentParser:
    """A command on a run document."""
    parser = commands.add_parser(name, help=says, description=f"{says[0].upper()}{says[1:]}.")
    parser.add_argument("file", metavar="FILE", help=_FILE)
    _add_set(parser)
    return _finish(parser, command)


def _finish(parser: argparse.ArgumentParser, command: _Command) -> argparse.ArgumentParser:
    parser.add_argument("-n", "--namespace", metavar="NAMESPACE", help="that of the current context if unset")
    parser.set_defaults(command=command, extra="operator")
    return parser


def _submit(options: argparse.Namespace) -> int:
    from diht_k8s.cli import cluster

    return cluster.submit(options.file, options.overrides, options.namespace, dry_run=options.dry_run)


def _watch(options: argparse.Namespace) -> int:
    from diht_k8s.cli.watch import watch

    return watch(options.name, options.namespace)


def _logs(options: argparse.Namespace) -> int:
    from diht_k8s.cli import cluster

    return cluster.logs(options.name, options.stage, options.namespace, follow=options.follow, lines=options.tail)


def _why(options: argparse.Namespace) -> int:
    from diht_k8s.cli import cluster

    return cluster.why(options.name, options.namespace)


def _plan(options: argparse.Namespace) -> int:
    from diht_k8s.cli import cluster

    return cluster.plan(
        options.file, options.overrides, options.namespace, gpu=options.gpu, show_secrets=options.show_secrets
    )


def _retry(options: argparse.Namespace) -> int:
    from diht_k8s.cli import cluster

    return cluster.retry(options.name, options.namespace)


def _cancel(options: argparse.Namespace) -> int:
    from diht_k8s.cli import cluster

    return cluster.cancel(options.name, options.namespace)
