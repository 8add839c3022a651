"""`diht import` and `diht benchmarks import`, and the summary that they print."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from diht_k8s.api.errors import StopRequested, UserError
from diht_k8s.api.wording import counted
from diht_k8s.cli.display import progress_bar, show
from diht_k8s.data.imports.layouts import open_benchmark, open_pairs, shard_files
from diht_k8s.data.imports.pair_import import PairImport, check_shards, import_pairs
from diht_k8s.data.imports.records import ReaderOptions, RecordSource, Tally
from diht_k8s.data.imports.resumable_import import ImportPlan, account_lines
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.evaluate.class_texts import WITH_CLASSES, number_note
from diht_k8s.stages.evaluate.importing import BenchmarkImport, class_names_for, import_benchmark


def import_pairs_command(**given: Any) -> int:
    """Write image-caption pairs as shards for a run; the exit code.

    Args:
        given: the options of `diht import`.
    """
    options = argparse.Namespace(**given)
    if options.shard_size < 1:
        raise UserError("--shard-size must be 1 or more")
    path = _source(options.source)
    if options.kind is None and (ready := shard_files(path)):
        with stopping_on_request("nothing was written"), progress_bar("shards") as bar:
            task = bar.add_task("check", total=len(ready))
            marker = check_shards(ready, Storage(), lambda: bar.advance(task))
        return show(marker, ready_summary(options.source, options.output, marker), as_json=options.as_json)
    if options.output is None:
        raise UserError(f"diht import {options.source} OUTPUT: name the folder into which the shards are written")
    wanted = ReaderOptions(
        options.split,
        _images(options.images),
        image_column=options.image_column,
        caption_column=options.caption_column,
        delimiter=_delimiter(options.delimiter),
        links=_folders(options.allow_links),
    )
    plan = PairImport(options.output, options.shard_size, options.replace, wanted.allowed, captions=options.captions)
    _, marker = _imported(lambda: open_pairs(path, options.kind, wanted), plan, import_pairs)
    return show(marker, pair_summary(options.output, marker), as_json=options.as_json)


def import_benchmark_command(**given: Any) -> int:
    """Write a data set as benchmark shards; the exit code.

    Args:
        given: the options of `diht benchmarks import`.
    """
    options = argparse.Namespace(**given)
    if options.shard_size < 1:
        raise UserError("--shard-size must be 1 or more")
    path = _source(options.source)
    wanted = ReaderOptions(options.split, _images(options.images), links=_folders(options.allow_links))
    plan = BenchmarkImport(
        options.output,
        options.shard_size,
        options.replace,
        wanted.allowed,
        split=options.split,
        class_names=options.class_names,
        templates=options.templates,
    )
    source, marker = _imported(lambda: open_benchmark(path, options.kind, wanted), plan, import_benchmark)
    if source.type in WITH_CLASSES and (note := number_note(class_names_for(source, plan, Storage()).lines)):
        print(f"diht: warning: {note}", file=sys.stderr)
    return show(marker, benchmark_summary(options.output, marker), as_json=options.as_json)


def _imported(
    open_source: Callable[[], RecordSource], plan: ImportPlan, write: Callable[..., dict[str, Any]]
) -> tuple[RecordSource, dict[str, Any]]:
    """Import under a bar of progress."""
    with stopping_on_request(), contextlib.ExitStack() as shown:
        source = open_source()
        bar = shown.enter_context(progress_bar())
        task = bar.add_task(f"import {source.kind}")
        marker = write(
            source,
            plan,
            Storage(),
            lambda total, done: bar.update(task, total=total, completed=done),
            lambda: bar.advance(task),
        )
    return source, marker


def _source(given: str) -> Path:
    if "://" in given:
        raise UserError(f"{given} is no path on this machine's disk: copy it there first (only OUTPUT may be a URI)")
    path = Path(given).expanduser()
    try:
        path.exists()
    except OSError as error:
        raise UserError(f"{given[:80]}...: {error.strerror}: check the path") from error
    return path


def _images(given: str | None) -> Path | None:
    if not given:
        return None
    folder = Path(given).expanduser()
    if not folder.is_dir():
        raise UserError(f"--images {given}: there is no such folder")
    return folder


def benchmark_summary(output: str, marker: Mapping[str, Any]) -> list[str]:
    """The imported images, those left out and why, and how to evaluate on them."""
    shards = counted(len(marker["shards"]), "shard")
    with_classes = marker["type"] in WITH_CLASSES
    what = "classes" if with_classes else "answers to choose from"
    classes = f", {marker['classes']} {what}" if marker["classes"] else ""
    lines = [f"{output}: {marker['samples']} images in {shards} ({marker['kind']}, {marker['type']}{classes})"]
    if marker["classes"] and with_classes:
        lines.append(f"class names from {marker['class_names_from']}")
    if with_classes:
        lines.append(f"templates from {marker['templates_from'] or 'nowhere: the class name alone is the prompt'}")
    lines += [*account_lines(marker), *_notes(marker)]
    parent = output.rstrip("/").rpartition("/")[0] or "."
    lines.append(f"diht benchmarks {parent} lists it; add --yaml --only NAME for its part of a run document")
    return lines


def pair_summary(output: str, marker: Mapping[str, Any]) -> list[str]:
    """The imported pairs, those left out and why, and the next command."""
    shards = counted(len(marker["shards"]), "shard")
    lines = [f"{output}: {marker['samples']} pairs in {shards} ({marker['kind']})"]
    lines += [*account_lines(marker), *_notes(marker)]
    return [*lines, f"to write a run document for them: diht init {shlex.quote(output)}"]


def ready_summary(source: str, output: str | None, marker: Mapping[str, Any]) -> list[str]:
    """The pairs of shards that stay where they are, and the next command."""
    shards = counted(len(marker["shards"]), "shard")
    lines = [f"{source}: {marker['samples']} pairs in {shards}, sound; they are used where they are"]
    if output is not None:
        lines.append(f"nothing was written to {output}")
    lines += [*Tally(marker["bad"]).lines("left out"), *_notes(marker)]
    return [*lines, f"to write a run document for them: diht init {shlex.quote(source)}"]


def _notes(marker: Mapping[str, Any]) -> list[str]:
    return [f"note: {note}" for note in marker["notes"]]


@contextlib.contextmanager
def stopping_on_request(left: str = "finished shards are kept: start again to resume") -> Iterator[None]:
    """End at once on SIGTERM, as on Ctrl-C; finished shards stay, and a half-written one leaves nothing behind.

    Args:
        left: what there is then, for the message.

    Raises:
        StopRequested: a signal came.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt as error:
        raise StopRequested(f"stopped on request; {left}") from error
    finally:
        signal.signal(signal.SIGTERM, before)


def _delimiter(given: str | None) -> str | None:
    mark = {"tab": "\t", "\\t": "\t"}.get(given or "", given)
    if mark is not None and (len(mark) != 1 or mark in '"\r\n'):
        raise UserError(f"--delimiter {given!r} is no single character: write for example ';' or tab")
    return mark


def _folders(given: Sequence[str]) -> tuple[Path, ...]:
    folders = tuple(Path(name).expanduser() for name in given)
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"--allow-links {folder} is no folder: name the one into which links may lead")
    return folders
