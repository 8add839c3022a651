"""Annotation files (JSON, JSON lines, CSV), read whole, with errors that name the file and what to do."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.data.imports.tally import printable


def read_json(path: Path) -> Any:
    """A JSON file.

    Raises:
        DataError: it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}): fetch it again") from error


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """A file with a JSON object in each line.

    Raises:
        DataError: a line is none.
    """
    found: list[dict[str, Any]] = []
    text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    for number, line in enumerate(text.split("\n"), start=1):  # `splitlines` also ends lines within strings, at U+2028
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}, is not JSON ({error}): fetch the file again") from error
        if not isinstance(value, dict):
            raise DataError(f"{path}, line {number}, is no JSON object: fetch the file again")
        found.append(value)
    return found


def read_csv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """A CSV file with a header.

    Raises:
        UserError: it is not there.
        DataError: a column is missing.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing: name the folder into which the original was unpacked")
    with path.open(newline="") as file:
        rows = csv.DictReader(file)
        missing = [column for column in columns if column not in (rows.fieldnames or ())]
        if missing:
            raise DataError(f"{path} has no column {missing[0]}: fetch the file again")
        return list(rows)


def text_of(entry: Any, key: str, path: Path) -> str:
    """A text of an annotation.

    Raises:
        DataError: it is missing or no text, or the annotation is no object.
    """
    value = entry.get(key) if isinstance(entry, Mapping) else None
    if not isinstance(value, str):
        raise DataError(f"{path}: an entry has no text {key} ({repr(entry)[:80]}): fetch the file again")
    return value


def image_folder_of(path: Path, given: Path | None, names: Sequence[str], first: Sequence[str]) -> Path:
    """The folder that holds the images of an annotation file: the one given, else the first in which one of some is.

    Args:
        path: the annotation file.
        given: what the user said.
        names: folders to look at, beside the file.
        first: file names of some images, of which a few may be missing.

    Raises:
        UserError: no folder has one of them.
    """
    places = [given] if given is not None else [path.parent / name for name in ("", *names)]
    places = [place for parent in places for place in (parent, *(parent / name for name in names))]
    found = next((place for place in dict.fromkeys(places) if any(_is_file(place / name) for name in first)), None)
    if found is None:
        where = str(given) if given is not None else f"{path.parent} or its folders {', '.join(names)}"
        raise UserError(f"{printable(first[0])} of {path} is not in {where}: name the folder of the images by --images")
    return found


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the name is too long
        return False
