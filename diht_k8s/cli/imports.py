"""`diht benchmarks import`: its arguments, its progress bar, and what it says at the end."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.progress import Progress

COMMAND: Final = "benchmarks-import"
"""How the parser names `diht benchmarks import`, whose first word takes a folder otherwise."""


def add_import(commands: Any) -> None:
    """Add the command to a parser's commands."""
    parser = commands.add_parser(COMMAND, prog="diht benchmarks import")
    parser.description = (
        "Write a data set that lies on disk as benchmark shards (OUTPUT/test/*.tar, with class names and templates "
        "beside them), the layout that evaluate and clip-benchmark read. SOURCE is a folder (ImageFolder, a root of "
        "torchvision, WILDS, a Hugging Face data set in Parquet or Arrow) or an annotation file (COCO captions, "
        "Karpathy's splits, VQAv2's questions, SNLI-VE, SugarCrepe, Winoground). Nothing is downloaded. An "
        "interrupted import resumes when it is started again."
    )
    parser.add_argument("source", metavar="SOURCE", help="folder or annotation file of the original, on this machine")
    parser.add_argument("output", metavar="OUTPUT", help="folder or s3:// prefix for the benchmark")
    parser.add_argument(
        "--format", metavar="NAME", dest="kind", help="layout of SOURCE; found by what lies there if unset"
    )
    parser.add_argument("--split", default="test", metavar="NAME", help="split of the original (test)")
    parser.add_argument(
        "--images", metavar="DIR", help="folder of the images, where they are not beside the annotations"
    )
    parser.add_argument("--annotations", metavar="FILE", help="the answers to VQAv2's questions")
    parser.add_argument(
        "--class-names", metavar="FILE", help="one class name a line, in the order of the class numbers"
    )
    parser.add_argument(
        "--templates", metavar="FILE", help="one prompt template a line, {c} standing for the class name"
    )
    parser.add_argument(
        "--answers", type=int, default=100, metavar="N", help="commonest answers of VQAv2 to choose from (100)"
    )
    parser.add_argument("--shard-size", type=int, default=1000, metavar="N", help="most images in a shard (1000)")
    parser.add_argument("--replace", action="store_true", help="remove another import from OUTPUT; other files stay")
    parser.set_defaults(command=_import)


def _import(options: argparse.Namespace) -> int:
    from diht_k8s.api.errors import ExitCode, UserError
    from diht_k8s.recipe.evaluate.importing import Order, import_benchmark
    from diht_k8s.recipe.imports.layouts import open_source
    from diht_k8s.recipe.imports.records import Wanted
    from diht_k8s.recipe.shards.storage import Storage

    if options.shard_size < 1 or options.answers < 2:
        raise UserError("--shard-size must be 1 or more, and --answers 2 or more")
    images, annotations = (Path(name).expanduser() if name else None for name in (options.images, options.annotations))
    wanted = Wanted(options.split, images, annotations, options.answers)
    source = open_source(Path(options.source).expanduser(), options.kind, wanted)
    order = Order(
        options.output, options.split, options.class_names, options.templates, options.shard_size, options.replace
    )
    with _progress() as bar:
        task = bar.add_task(f"import {source.kind}")
        marker = import_benchmark(
            source,
            order,
            Storage(),
            lambda total, done: bar.update(task, total=total, completed=done),
            lambda: bar.advance(task),
        )
    print(summary(options.output, marker))
    return ExitCode.DONE


def _progress() -> Progress:
    """A bar on stderr; where that is no terminal, one line at the end."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("images"))
    return Progress(*columns, TaskProgressColumn(show_speed=True), TimeRemainingColumn(), console=Console(stderr=True))


def summary(output: str, marker: Mapping[str, Any]) -> str:
    """What was imported, what was left out and why, and how to evaluate it."""
    shards, bad = len(marker["shards"]), marker["bad"]
    what = "classes" if marker["type"] == "Classification" else "answers to choose from"
    classes = f", {marker['classes']} {what}" if marker["classes"] else ""
    plural = "shard" if shards == 1 else "shards"
    lines = [f"{output}: {marker['samples']} images in {shards} {plural} ({marker['kind']}, {marker['type']}{classes})"]
    if marker["classes"] and marker["type"] == "Classification":
        lines.append(f"class names from {marker['class_names_from']}")
    if marker["type"] == "Classification":
        lines.append(f"templates from {marker['templates_from'] or 'nowhere: the class name alone is the prompt'}")
    lines += [f"note: {note}" for note in marker["notes"]]
    lines += [f"left out: {each['count']} {reason}, for example {each['example']}" for reason, each in bad.items()]
    parent = output.rstrip("/").rpartition("/")[0] or "."
    lines.append(f"diht benchmarks {parent} lists it; add --yaml --only NAME for its part of a run document")
    return "\n".join(lines)
