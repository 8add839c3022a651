"""What the .json of a pair says of where it came from: the path of its image, its row, and the row's other columns."""

from __future__ import annotations

import datetime
import decimal
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from diht_k8s.data.shards.samples import storable

SOURCE_PATH: Final = "source_path"
"""Path of the image: relative to SOURCE where it lies there."""
SOURCE_ROW: Final = "source_row"
"""Table or annotation file, and the row or line in it."""
LEFT_OUT: Final = "columns_left_out"
"""Names of columns that are not kept: bytes, values that are too large, and those with a name of this module."""
MAX_CELL: Final = 4 << 10
"""Bytes of a value as JSON."""
MAX_COLUMNS: Final = 32 << 10
"""Bytes of all values of a row."""
MAX_DEPTH: Final = 16
MAX_SOURCE: Final = 4096
"""Characters of a path or row in the scores."""
_OWN: Final = (SOURCE_PATH, SOURCE_ROW, LEFT_OUT)
_TEXT_ALWAYS: Final = ("uid",)
"""A pair's uid is a text, also where it looks like a number."""
_NUMBER: Final = re.compile(r"-?(0|[1-9]\d{0,14})(\.\d{1,17})?([eE][+-]?\d{1,2})?")


def storable_path(path: str) -> str:
    """A path as JSON text: bytes that are no UTF-8 as escapes, so that different names stay different."""
    return path.encode(errors="backslashreplace").decode()


def named_path(path: Path, *folders: Path | None) -> str:
    """The path of an image: relative to the first of some folders in which it lies by its name, else as it is."""
    folder = next((each for each in folders if each is not None and path.is_relative_to(each)), None)
    return str(path if folder is None else path.relative_to(folder))


def source_of(meta: Mapping[str, Any]) -> str | None:
    """Where a pair came from in one text: the path of its image, else its row; None where its .json says neither.

    Args:
        meta: the .json of the pair.
    """
    found = next((meta[name] for name in (SOURCE_PATH, SOURCE_ROW) if isinstance(meta.get(name), str)), None)
    return None if found is None else storable(found[:MAX_SOURCE])


def kept_columns(cells: Mapping[str, Any]) -> dict[str, Any]:
    """The cells of a row as JSON values; the names of those that are not kept come last, as `columns_left_out`.

    Args:
        cells: column -> value, without image and caption.
    """
    found, left_out, room = dict[str, Any](), list[str](), MAX_COLUMNS
    for name, cell in cells.items():
        try:
            value = _json_value(cell, MAX_DEPTH)
            size = len(json.dumps({name: value}))
        except (TypeError, ValueError, RecursionError, OverflowError):
            left_out.append(name)
            continue
        if size > min(MAX_CELL, room) or name in _OWN:
            left_out.append(name)
        else:
            found[name] = value
            room -= size
    return found | ({LEFT_OUT: [name[:64] for name in left_out[:64]]} if left_out else {})


def text_columns(cells: Mapping[str, str]) -> dict[str, Any]:
    """Cells of a text table: those that are written as JSON writes numbers are numbers."""
    return {name: cell if name in _TEXT_ALWAYS else _number_or_text(cell) for name, cell in cells.items()}


def _number_or_text(cell: str) -> int | float | str:
    found = _NUMBER.fullmatch(cell)
    if found is None:
        return cell
    return int(cell) if found[2] is None and found[3] is None else float(cell)


def _json_value(value: Any, depth: int) -> Any:
    """A value of JSON; raises TypeError for what has none."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, Mapping | list) and depth:
        if isinstance(value, Mapping):
            return {str(name): _json_value(each, depth - 1) for name, each in value.items()}
        return [_json_value(each, depth - 1) for each in value]
    raise TypeError(type(value).__name__)
