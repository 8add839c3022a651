"""`diht import` and `diht benchmarks import`: their arguments, their progress bar, and what they say at the end."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.progress import Progress

COMMAND: Final = "benchmarks-import"
"""How the parser names `diht benchmarks import`, whose first word takes a folder otherwise."""


def add_pair_import(commands: Any) -> None:
    """Add `diht import` to a parser's commands."""
    parser = commands.add_parser("import", help="write images with captions that lie on disk as shards for a run")
    parser.description = (
        "Write image-caption pairs that lie on disk as shards (OUTPUT/00000.tar, ...), as spec.data.sources reads them. "
        "SOURCE is a folder of images with NAME.txt, NAME.caption or NAME.json beside each; a table (.csv, .tsv, .jsonl, "
        ".parquet, .arrow) with captions and the images or their paths; COCO's captions or Karpathy's splits (.json); "
        "Flickr30k's .token file; or a Hugging Face data set on disk. Shards that lie in SOURCE already, as img2dataset "
        "writes them, are checked and stay where they are. Nothing is downloaded. An interrupted import resumes when it "
        "is started again."
    )
    parser.add_argument("source", metavar="SOURCE", help="folder, table or annotation file, on this machine")
    parser.add_argument("output", metavar="OUTPUT", nargs="?", help="folder or s3:// prefix for the shards")
    parser.add_argument(
        "--format", metavar="NAME", dest="kind", help="layout of SOURCE; found by what lies there if unset"
    )
    parser.add_argument(
        "--split", default="train", metavar="NAME", help="split of a Hugging Face data set or of Karpathy's (train)"
    )
    parser.add_argument(
        "--images", metavar="DIR", help="folder of the images, where they are not beside the table or annotations"
    )
    parser.add_argument("--image-column", metavar="NAME", help="column of a table with the images or their paths")
    parser.add_argument(
        "--caption-column", metavar="NAME", help="column of a table (or name in the .json) with captions"
    )
    parser.add_argument(
        "--captions", choices=("each", "first", "list"), default="each",
        help="of an image with several: a pair for each (the default), for the first, or one with all of them to draw from",
    )  # fmt: skip
    parser.add_argument("--shard-size", type=int, default=1000, metavar="N", help="most images in a shard (1000)")
    parser.add_argument("--replace", action="store_true", help="remove another import from OUTPUT; other files stay")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(command=_import_pairs)


def add_import(commands: Any) -> None:
    """Add `diht benchmarks import` to a parser's commands."""
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
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(command=_import)


def _import_pairs(options: argparse.Namespace) -> int:
    from diht_k8s.api.errors import ExitCode, UserError
    from diht_k8s.recipe.imports.existing_shards import check_shards
    from diht_k8s.recipe.imports.layouts import open_pairs, shard_files
    from diht_k8s.recipe.imports.pair_import import PairImport, import_pairs
    from diht_k8s.recipe.imports.records import ReaderOptions
    from diht_k8s.recipe.shards.storage import Storage

    if options.shard_size < 1:
        raise UserError("--shard-size must be 1 or more")
    path = Path(options.source).expanduser()
    if ready := shard_files(path):
        with progress_bar("shards") as bar:
            task = bar.add_task("check", total=len(ready))
            marker = check_shards(ready, Storage(), lambda: bar.advance(task))
        print(json.dumps(marker) if options.json else ready_summary(options.source, options.output, marker))
        return ExitCode.DONE
    if options.output is None:
        raise UserError(f"diht import {options.source} OUTPUT: name the folder into which the shards are written")
    wanted = ReaderOptions(
        options.split, Path(options.images).expanduser() if options.images else None,
        image_column=options.image_column, caption_column=options.caption_column,
    )  # fmt: skip
    source = open_pairs(path, options.kind, wanted)
    order = PairImport(options.output, options.shard_size, options.captions, options.replace)
    with progress_bar() as bar:
        task = bar.add_task(f"import {source.kind}")
        marker = import_pairs(
            source, order, Storage(),
            lambda total, done: bar.update(task, total=total, completed=done), lambda: bar.advance(task),
        )  # fmt: skip
    print(json.dumps(marker) if options.json else pair_summary(options.output, marker))
    return ExitCode.DONE


def _import(options: argparse.Namespace) -> int:
    from diht_k8s.api.errors import ExitCode, UserError
    from diht_k8s.recipe.evaluate.importing import BenchmarkImport, import_benchmark
    from diht_k8s.recipe.imports.layouts import open_benchmark
    from diht_k8s.recipe.imports.records import ReaderOptions
    from diht_k8s.recipe.shards.storage import Storage

    if options.shard_size < 1 or options.answers < 2:
        raise UserError("--shard-size must be 1 or more, and --answers 2 or more")
    images, annotations = (Path(name).expanduser() if name else None for name in (options.images, options.annotations))
    wanted = ReaderOptions(options.split, images, annotations, options.answers)
    source = open_benchmark(Path(options.source).expanduser(), options.kind, wanted)
    order = BenchmarkImport(
        options.output, options.split, options.class_names, options.templates, options.shard_size, options.replace
    )
    with progress_bar() as bar:
        task = bar.add_task(f"import {source.kind}")
        marker = import_benchmark(
            source,
            order,
            Storage(),
            lambda total, done: bar.update(task, total=total, completed=done),
            lambda: bar.advance(task),
        )
    print(json.dumps(marker) if options.json else summary(options.output, marker))
    return ExitCode.DONE


def progress_bar(unit: str = "images") -> Progress:
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

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
    return Progress(*columns, TaskProgressColumn(show_speed=True), TimeRemainingColumn(), console=Console(stderr=True))


def summary(output: str, marker: Mapping[str, Any]) -> str:
    """What was imported, what was left out and why, and how to evaluate it."""
    shards = len(marker["shards"])
    what = "classes" if marker["type"] == "Classification" else "answers to choose from"
    classes = f", {marker['classes']} {what}" if marker["classes"] else ""
    lines = [f"{output}: {marker['samples']} images in {_shards(shards)} ({marker['kind']}, {marker['type']}{classes})"]
    if marker["classes"] and marker["type"] == "Classification":
        lines.append(f"class names from {marker['class_names_from']}")
    if marker["type"] == "Classification":
        lines.append(f"templates from {marker['templates_from'] or 'nowhere: the class name alone is the prompt'}")
    lines += _notes(marker)
    parent = output.rstrip("/").rpartition("/")[0] or "."
    lines.append(f"diht benchmarks {parent} lists it; add --yaml --only NAME for its part of a run document")
    return "\n".join(lines)


def pair_summary(output: str, marker: Mapping[str, Any]) -> str:
    """What was imported, what was left out and why, and what to do next."""
    lines = [f"{output}: {marker['samples']} pairs in {_shards(len(marker['shards']))} ({marker['kind']})"]
    return "\n".join([*lines, *_notes(marker), f"to write a run document for them: diht init {output}"])


def ready_summary(source: str, output: str | None, marker: Mapping[str, Any]) -> str:
    """What the shards of a folder hold, and that they stay there."""
    lines = [
        f"{source}: {marker['samples']} pairs in {_shards(len(marker['shards']))}, sound; they are used where they are"
    ]
    if output is not None:
        lines.append(f"nothing was written to {output}")
    return "\n".join([*lines, *_notes(marker), f"to write a run document for them: diht init {source}"])


def _shards(count: int) -> str:
    return f"{count} {'shard' if count == 1 else 'shards'}"


def _notes(marker: Mapping[str, Any]) -> list[str]:
    lines = [f"note: {note}" for note in marker["notes"]]
    return lines + [
        f"left out: {each['count']} {why}, for example {each['example']}" for why, each in marker["bad"].items()
    ]
