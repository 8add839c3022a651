"""Arguments of the commands on corpora, benchmarks and models. Imports nothing heavy: `diht --help` must answer at once."""

from __future__ import annotations

import argparse

from diht_k8s.cli.arguments import EXIT_CODES, FILE, Commands, add_json, add_set
from diht_k8s.cli.imports import add_import


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
    from diht_k8s.cli.evaluate import benchmarks_command

    return benchmarks_command(options.catalogue, options.root, options.only, as_yaml=options.yaml, as_json=options.json)


def _convert(options: argparse.Namespace) -> int:
    from diht_k8s.cli.evaluate import convert_command

    return convert_command(options.source, options.target, options.architecture, as_json=options.json)


def _report(options: argparse.Namespace) -> int:
    from diht_k8s.cli.evaluate import report_command

    return report_command(options.runs, options.output, as_json=options.json)
