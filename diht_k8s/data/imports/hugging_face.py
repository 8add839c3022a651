"""Hugging Face data sets on disk as benchmarks; their columns decide the task."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.data.imports.hugging_face_tables import Table, open_table, values_elsewhere
from diht_k8s.data.imports.records import (
    ImageRecord,
    ReaderOptions,
    RecordSource,
    SeenUnits,
    file_stats,
    fingerprint,
)
from diht_k8s.data.imports.source_files import SourceFile
from diht_k8s.data.imports.tally import Tally, printable

IMAGES: Final = ("image", "img", "jpg", "jpeg", "png", "webp", "picture")
LABELS: Final = ("label", "labels", "cls", "fine_label", "class", "category")
CAPTIONS: Final = ("caption", "captions", "sentences", "sentence", "text", "txt", "raw")
WINOGROUND: Final = ("image_0", "image_1", "caption_0", "caption_1")
WINOGAVIL: Final = ("candidate_images", "candidates", "cue", "associations")


def read_hugging_face(path: Path, options: ReaderOptions) -> RecordSource:
    """One split of a folder, or one file.

    Raises:
        UserError: there is no such split, or the columns are those of no task.
        DataError: a file is damaged.
    """
    table = open_table(path, options)
    columns = set(table.schema.names)
    if columns.issuperset(WINOGROUND):
        return _source(table, options, "winoground", "PairMatching", 2 * table.total, _winoground(table))
    if columns.issuperset(WINOGAVIL):
        return _winogavil(table, options)
    image = _first(table, IMAGES, "Image")
    if image is None:
        raise UserError(f"{path} has no column of images ({', '.join(sorted(columns))}): expected {', '.join(IMAGES)}")
    if {"question", "answers"} <= columns or {"question", "answer"} <= columns:
        return _source(table, options, "hugging-face", "AnswerRanking", table.total, _asked(table, image))
    label, caption = _label_column(path, table), _first(table, CAPTIONS, None)
    if label is not None:
        return _labelled(path, table, options, image, label)
    if caption is not None:
        return _source(table, options, "hugging-face", "Retrieval", table.total, _captioned(table, image, caption))
    raise UserError(
        f"{path} has neither classes nor captions ({', '.join(sorted(columns))}): expected a column "
        f"{', '.join(LABELS[:2])}, or {', '.join(CAPTIONS[:2])}"
    )


def _source(
    table: Table,
    options: ReaderOptions,
    kind: str,
    task: str,
    total: int,
    read: Any,
    class_names: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
) -> RecordSource:
    marks = fingerprint([kind, options.split, table.total, class_names, file_stats(table.files)])
    return RecordSource(kind, task, total, read, marks, class_names, notes=notes)


def _typed(table: Table, feature: str | None) -> list[str]:
    """The columns of a feature type."""
    return [name for name, found in table.features.items() if isinstance(found, dict) and found.get("_type") == feature]


def _first(table: Table, names: Sequence[str], feature: str | None) -> str | None:
    """The column of a feature type, else the first of some names."""
    typed = _typed(table, feature)
    by_name = [name for name in names if name in table.schema.names]
    both = [name for name in by_name if name in typed]
    return next(iter([*both, *(typed if feature else ()), *by_name]), None)


def _label_column(path: Path, table: Table) -> str | None:
    """The classes with a usual name, else the only column whose type is ClassLabel; None where there is none.

    Raises:
        UserError: several are of that type, and none has a usual name.
    """
    typed = _typed(table, "ClassLabel")
    named = [name for name in LABELS if name in table.schema.names]
    usual = [name for name in named if name in typed] or ([] if len(typed) == 1 else named)
    if not usual and len(typed) > 1:
        raise UserError(
            f"{path} has several columns of classes ({printable(', '.join(typed))}): rename the one to evaluate to {LABELS[0]}"
        )
    return next(iter([*usual, *typed]), None)


def _labelled(path: Path, table: Table, options: ReaderOptions, image: str, label: str) -> RecordSource:
    notes: list[str] = []
    if others := [name for name in _typed(table, "ClassLabel") if name != label]:
        notes.append(f"classes are from the column {label} (also there: {printable(', '.join(others))})")
    names = table.features.get(label, {}).get("names") if isinstance(table.features.get(label), dict) else None
    values = [row[label] for row in table.rows([label])]
    is_text = all(isinstance(value, str) for value in values)
    if not is_text and any(not isinstance(value, int) or value < 0 for value in values):
        raise UserError(
            f"{table.files[0]}: column {label} of split {options.split} does not hold classes from 0 "
            f"({str(next(v for v in values if not isinstance(v, int) or v < 0))[:40]!r}): choose another by --split"
        )
    if is_text or not names:  # a split may lack classes of the data set
        elsewhere, unread = values_elsewhere(path, table, label, str if is_text else int)
        more = _classes_of(elsewhere.values()) - {*values}
        known = {*values, *more}
        names = sorted(known) if is_text else [str(number) for number in range(1 + max(known))]
        notes += [f"{file.name} cannot be read: classes that it alone holds are not known" for file in unread[:1]]
        if more:
            notes.append(
                f"{len(more)} of the {len(names)} classes are in other splits alone, such as {sorted(more)[0]!r}"
            )
        elif not any(elsewhere.values()):
            notes.append(
                f"the {len(names)} classes are those of split {options.split} alone: if other splits hold more, put them beside "
                "it and name the folder"
            )
        if not is_text:
            notes.append("class names are numbers, since the data set gives none: give names by --class-names")
    number_of = {name: number for number, name in enumerate(names)}

    def read(start: int, stop: int) -> Iterator[ImageRecord]:
        for number, row in enumerate(table.rows([image, label], start, stop), start=start):
            value = row[label]
            number_or = number_of[value] if isinstance(value, str) else int(value)  # of a truth value, too
            yield ImageRecord(_place(table, number), _image(row[image], table), label=number_or)

    plain = tuple(str(name).replace("_", " ") for name in names)
    return _source(table, options, "hugging-face", "Classification", table.total, read, plain, tuple(notes))


def _classes_of(splits: Iterable[set[Any]]) -> set[Any]:
    """The classes of other splits; one value that stands for a whole split, as in test sets of contests, is none."""
    usable = (found - {"", -1} for found in splits)
    return {value for found in usable if len(found) > 1 for value in found}


def _captioned(table: Table, image: str, caption: str) -> Any:
    def read(start: int, stop: int) -> Iterator[ImageRecord]:
        for number, row in enumerate(table.rows([image, caption], start, stop), start=start):
            said = row[caption]
            captions = tuple(text for text in (said if isinstance(said, list) else [said]) if isinstance(text, str))
            yield ImageRecord(_place(table, number), _image(row[image], table), captions=captions)

    return read


def _asked(table: Table, image: str) -> Any:
    """VQAv2 as its repository keeps it: a question a row, answers as texts or as objects with `answer`."""
    key = "answers" if "answers" in table.schema.names else "answer"
    candidates = ["candidates"] if "candidates" in table.schema.names else []

    def read(start: int, stop: int) -> Iterator[ImageRecord]:
        for number, row in enumerate(table.rows([image, "question", key, *candidates], start, stop), start=start):
            given = row[key] if isinstance(row[key], list) else [row[key]]
            answers = [one.get("answer") if isinstance(one, dict) else one for one in given]
            meta = {"question": row["question"], "answers": [each for each in answers if each is not None]}
            meta |= {name: row[name] for name in candidates}
            yield ImageRecord(_place(table, number), _image(row[image], table), meta=meta)

    return read


def _winoground(table: Table) -> Any:
    """Two records a row: the images of a group with their own captions."""

    def read(start: int, stop: int) -> Iterator[ImageRecord]:
        rows = table.rows(WINOGROUND, start // 2, -(-stop // 2))
        for number, row in enumerate(rows, start=start // 2):
            for side in (0, 1):
                if start <= 2 * number + side < stop:
                    meta = {"group": number, "uid": f"{number}-{side}"}
                    image, caption = row[f"image_{side}"], row[f"caption_{side}"]
                    is_text = isinstance(caption, str)
                    yield ImageRecord(
                        _place(table, number),
                        _image(image, table),
                        captions=(caption,) if is_text else (),
                        meta=meta,
                        problem=None if is_text else "caption_no_text",
                    )

    return read


def _winogavil(table: Table, options: ReaderOptions) -> RecordSource:
    """A record for each image, with all the cues that it is a candidate for; rows that give no cue are counted.

    Raises:
        DataError: no row gives one.
    """
    place_of: dict[str, tuple[int, int]] = {}
    cues: dict[str, list[dict[str, Any]]] = {}
    ignored = Tally()
    for number, row in enumerate(table.rows(WINOGAVIL[1:])):
        if (problem := _cue_problem(row)) is not None:
            ignored.add(problem, _place(table, number))
            continue
        for position, name in enumerate(row["candidates"]):
            place_of.setdefault(name, (number, position))
            cue = {"group": number, "cue": row["cue"], "candidates": len(row["candidates"])}
            cues.setdefault(name, []).append({**cue, "associated": name in row["associations"]})
    if not cues:
        raise DataError(f"{table.files[0]} has no usable row ({'; '.join(ignored.lines('left out'))}): fetch it again")
    names = sorted(place_of, key=lambda name: place_of[name])

    def read(start: int, stop: int) -> Iterator[ImageRecord]:
        wanted_here = names[start:stop]
        first, last = place_of[wanted_here[0]][0], place_of[wanted_here[-1]][0]
        by_row: dict[int, list[str]] = {}
        for name in wanted_here:
            by_row.setdefault(place_of[name][0], []).append(name)
        for number, row in enumerate(table.rows(WINOGAVIL[:2], first, last + 1), start=first):
            images = row["candidate_images"] or []
            whole = number not in by_row or len(images) == len(row["candidates"])  # else which is whose is not known
            for name in by_row.get(number, ()):
                image = _image(images[place_of[name][1]], table) if whole else b""
                yield ImageRecord(
                    _place(table, number),
                    image,
                    meta={"cues": cues[name], "uid": name},
                    problem=None if whole else "images_unlike_candidates",
                )

    source = _source(table, options, "winogavil", "Association", len(names), read)
    seen = SeenUnits("images and unusable rows", len(names) + ignored.total, ignored=ignored)
    return replace(source, seen=seen) if ignored else source


def _cue_problem(row: Mapping[str, Any]) -> str | None:
    """Why a row of WinoGAViL gives no cue; None for one that does."""
    for column in ("candidates", "associations"):
        names = row[column]
        if not names or not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            return f"row_without_{column}"
    if not isinstance(row["cue"], str) or not row["cue"].strip():
        return "row_without_cue"
    return None if {*row["associations"]} <= {*row["candidates"]} else "association_without_candidate"


def _image(value: Any, table: Table) -> bytes | SourceFile:
    """The image of a cell: bytes, an object with `bytes` or `path`, or a path relative to the file."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return SourceFile(table.files[0].parent / value, table.roots)
    if value is None:
        return b""
    raise DataError(f"{table.files[0]} holds {type(value).__name__} in place of images: fetch it again")


def _place(table: Table, number: int) -> str:
    return f"{table.files[0].parent} row {number}"
