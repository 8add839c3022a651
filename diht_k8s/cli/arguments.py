"""What the arguments of several commands share. Imports nothing heavy: `diht --help` must answer at once.

Arguments of the commands on runs of a cluster. Imports nothing heavy: `diht --help` must answer at once.

Arguments of the commands on corpora, benchmarks and models. Imports nothing heavy: `diht --help` must answer at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, Final

from diht_k8s.cli.imports import add_import

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


def add_cluster_commands(commands: Commands) -> None:
    """Add the commands on a cluster's runs."""
    submit = _add_for_file(commands, "submit", "send a run to the cluster, or change it there", _submit)
    submit.add_argument("--dry-run", action="store_true", help="only ask the cluster whether it accepts the run")
    _add_for_name(commands, "watch", "follow a run until it has ended", _watch)
    status = _add_for_place(commands, "status", "say how a run stands, on this machine or on a cluster", _status)
    status.add_argument("--json", action="store_true", help="print one JSON object")
    _add_list(commands)
    logs = _add_for_place(commands, "logs", "print the logs of a stage's newest attempt", _logs)
    logs.add_argument(
        "stage", nargs="?", metavar="STAGE", help="filter, label, train, evaluate, or a step: label-heads"
    )
    logs.add_argument("-f", "--follow", action="store_true", help="keep printing new lines (of the first pod)")
    logs.add_argument("--tail", type=int, metavar="LINES", help="only the last lines")
    why = _add_for_name(commands, "why", "say in one sentence what a run does, or why it does not", _why)
    why.add_argument("--json", action="store_true", help="print the status as one JSON object")
    plan = _add_for_file(commands, "plan", "print every object that a run would create, without a cluster", _plan)
    plan.add_argument("--gpu", metavar="NAME", help="also estimate the training on this GPU (see diht estimate)")
    plan.add_argument("--image", metavar="IMAGE", help="image of the recipe, in place of pods.image of the document")
    plan.add_argument("--show-secrets", action="store_true", help="print literal values of pods.env too")
    _add_for_name(commands, "retry", "resume a run that failed", _retry)
    _add_for_name(commands, "cancel", "delete a run; what it finished stays", _cancel)


def _add_for_place(commands: Commands, name: str, says: str, command: Command) -> argparse.ArgumentParser:
    """A command on a run of this machine or of the cluster."""
    parser = commands.add_parser(name, help=says, description=f"{says[0].upper()}{says[1:]}.")
    parser.add_argument(
        "name", metavar="RUN", help="a run document or output folder of this machine, else the NAME of a cluster's run"
    )
    return _finish(parser, command)


def _add_list(commands: Commands) -> None:
    parser = commands.add_parser("list", help="list the runs of this machine, or of a cluster")
    parser.description = (
        "List the runs below a folder of this machine; with --namespace those of a cluster's namespace."
    )
    parser.add_argument(
        "folder", metavar="FOLDER", nargs="?", default="runs", help="where runs write their output (runs)"
    )
    parser.add_argument("-n", "--namespace", metavar="NAMESPACE", help="list the cluster's runs there")
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    parser.set_defaults(command=_list, extra="operator")


def _add_for_name(commands: Commands, name: str, says: str, command: Command) -> argparse.ArgumentParser:
    """A command on a run that the cluster has."""
    parser = commands.add_parser(name, help=says, description=f"{says[0].upper()}{says[1:]}.")
    parser.add_argument("name", metavar="NAME", help="name of the run")
    return _finish(parser, command)


def _add_for_file(commands: Commands, name: str, says: str, command: Command) -> argparse.ArgumentParser:
    """A command on a run document."""
    parser = commands.add_parser(name, help=says, description=f"{says[0].upper()}{says[1:]}.")
    parser.add_argument("file", metavar="FILE", help=FILE)
    add_set(parser)
    return _finish(parser, command)


def _finish(parser: argparse.ArgumentParser, command: Command) -> argparse.ArgumentParser:
    parser.add_argument("-n", "--namespace", metavar="NAMESPACE", help="that of the current context if unset")
    parser.set_defaults(command=command, extra="operator")
    return parser


def _submit(options: argparse.Namespace) -> int:
    from diht_k8s.cli import cluster

    return cluster.submit(options.file, options.overrides, options.namespace, dry_run=options.dry_run)


def _watch(options: argparse.Namespace) -> int:
    from diht_k8s.cli.watch import watch

    return watch(options.name, options.namespace)


def _status(options: argparse.Namespace) -> int:
    from diht_k8s.cli import local_runs

    if (output := local_runs.local_output(options.name)) is not None:
        return local_runs.status_command(output, as_json=options.json)
    from diht_k8s.cli import cluster

    return cluster.why(options.name, options.namespace, as_json=options.json)


def _list(options: argparse.Namespace) -> int:
    if options.namespace is not None:
        from diht_k8s.cli import cluster

        return cluster.list_runs(options.namespace, as_json=options.json)
    from diht_k8s.cli import local_runs

    return local_runs.list_command(options.folder, as_json=options.json)


def _logs(options: argparse.Namespace) -> int:
    from diht_k8s.cli import local_runs

    if (output := local_runs.local_output(options.name)) is not None:
        return local_runs.logs_command(output, options.stage, follow=options.follow, lines=options.tail)
    from diht_k8s.cli import cluster

    return cluster.logs(options.name, options.stage, options.namespace, follow=options.follow, lines=options.tail)


def _why(options: argparse.Namespace) -> int:
    from diht_k8s.cli import cluster

    return cluster.why(options.name, options.namespace, as_json=options.json)


def _plan(options: argparse.Namespace) -> int:
    from diht_k8s.cli import cluster

    overrides = [*options.overrides, *([f"pods.image={options.image}"] if options.image else [])]
    return cluster.plan(options.file, overrides, options.namespace, gpu=options.gpu, show_secrets=options.show_secrets)


def _retry(options: argparse.Namespace) -> int:
    from diht_k8s.cli import cluster

    return cluster.retry(options.name, options.namespace)


def _cancel(options: argparse.Namespace) -> int:
    from diht_k8s.cli import cluster

    return cluster.cancel(options.name, options.namespace)


def add_corpus_commands(commands: Commands) -> None:
    """Add `parse`, `concepts`, `index` and `purge`."""
    parse = commands.add_parser("parse", help="show what the CAT filter sees in a caption")
    parse.description = (
        "Show objects, attributes, relations, complexity and actions of captions, as the CAT filter sees them."
    )
    parse.add_argument("captions", nargs="+", metavar="CAPTION")
    parse.add_argument(
        "--why", action="store_true", help="also show the parser's tree and each correction rule that changed it"
    )
    add_json(parse)
    parse.set_defaults(command=_parse)

    concepts = commands.add_parser(
        "concepts", help="show the concepts of a run: commonest, rarest, cut", epilog=EXIT_CODES
    )
    concepts.description = (
        "Show the concept classes that the stage label made of the captions: the commonest, the rarest kept, and what "
        "was cut and why. FILE is a run document, a run's output folder or a vocabulary.json (a path or s3:// URI)."
    )
    concepts.add_argument("file", metavar="FILE", help="a run document, an output folder, or a vocabulary.json")
    add_set(concepts)
    add_json(concepts)
    concepts.set_defaults(command=_concepts)

    index = commands.add_parser(
        "index", help="count the samples of a run's shards and note where they stand", epilog=EXIT_CODES
    )
    index.description = (
        "Index the shards that the training of a run reads: how many samples each has, and where they stand. With an index "
        "a training reads no shard to count it, and reads samples by ranges. The filter makes an index on its way: this "
        "command is for runs without one. Several workers share the shards; start it again after a stop. Shards that are "
        "indexed in this version are not read again."
    )
    index.add_argument("file", metavar="FILE", help=FILE)
    add_set(index)
    index.add_argument("--worker", type=int, metavar="I", help="index of this worker, from 0; else DIHT_WORKER, else 0")
    index.add_argument("--workers", type=int, metavar="N", help="number of workers; else DIHT_WORKERS, else 1")
    add_json(index)
    index.set_defaults(command=_index)

    purge = commands.add_parser("purge", help="take pairs out of a run's output (takedowns)", epilog=EXIT_CODES)
    purge.description = (
        "Take pairs out of the kept shards, scores and labels of a run, and update its markers. No stage of the run may "
        "be running. Start an interrupted purge again to finish it. A model that was trained on the pairs stays as it is."
    )
    purge.add_argument("file", metavar="FILE", help=FILE)
    purge.add_argument(
        "--exclude", required=True, metavar="LIST",
        help="uids, SHA-256 of URLs or SHA-256 of images, one a line (a path or s3:// URI)",
    )  # fmt: skip
    add_set(purge)
    add_json(purge)
    purge.set_defaults(command=_purge)


def _parse(options: argparse.Namespace) -> int:
    from diht_k8s.cli.corpus import parse_command

    return parse_command(options.captions, as_json=options.json, why=options.why)


def _concepts(options: argparse.Namespace) -> int:
    from diht_k8s.cli.corpus import concepts_command

    return concepts_command(options.file, options.overrides, as_json=options.json)


def _index(options: argparse.Namespace) -> int:
    from diht_k8s.cli.corpus import index_command

    where = options.worker, options.workers
    return index_command(options.file, options.overrides, *where, as_json=options.json)


def _purge(options: argparse.Namespace) -> int:
    from diht_k8s.cli.corpus import purge_command

    return purge_command(options.file, options.exclude, options.overrides, as_json=options.json)


def add_evaluate_commands(commands: Commands) -> None:
    """Add `benchmarks`, `convert` and `report`."""
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
    add_json(benchmarks)
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
    add_json(convert)
    convert.set_defaults(command=_convert)

    report = commands.add_parser("report", help="compare the evaluations of several runs side by side")
    report.description = (
        "Compare evaluations side by side: a table on stdout and a page. Each RUN is a run document, a run's output folder, or its "
        "report.json. Runs that differ only in their seed share one column, which shows their spread. "
        "Differences to the first RUN are paired over the images and tested."
    )
    report.add_argument("runs", metavar="RUN", nargs="+")
    report.add_argument("--output", metavar="FILE", default="comparison.html", help="the page (comparison.html)")
    add_json(report)
    report.set_defaults(command=_report)


def _benchmarks(options: argparse.Namespace) -> int:
    from diht_k8s.cli.benchmarks import benchmarks_command

    return benchmarks_command(options.catalogue, options.root, options.only, as_yaml=options.yaml, as_json=options.json)


def _convert(options: argparse.Namespace) -> int:
    from diht_k8s.cli.benchmarks import convert_command

    return convert_command(options.source, options.target, options.architecture, as_json=options.json)


def _report(options: argparse.Namespace) -> int:
    from diht_k8s.cli.benchmarks import report_command

    return report_command(options.runs, options.output, as_json=options.json)
