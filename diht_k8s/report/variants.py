"""Variants of a run in a comparison: the fields in which they differ, their names and their order. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from diht_k8s.api.documents import canonical_json
from diht_k8s.api.json_types import is_object
from diht_k8s.api.redaction import redacted_document
from diht_k8s.api.run import Stage

Json = dict[str, Any]

DEFAULT: Final = "(default)"
ABSENT: Final = "no {stage}"
NAMED_FIELDS: Final = 3
"""Fields that a variant's name may hold."""
NAMED_CHARACTERS: Final = 40
NAMED_RUNS: Final = 3
_NUMBER: Final = re.compile(r"(\d+(?:\.\d+)?)")


def configuration(report: Mapping[str, Any]) -> Json:
    """The fields of a report that decide its results, without seeds: what is equal stands in one column."""
    spec = redacted_document(report["config"])["spec"]
    for place in (spec, spec.get("train") or {}):
        place.pop("seed", None)
    spec.get("data", {}).pop("output", None)
    return spec


def varying_fields(configurations: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """The fields in which configurations differ, each with its value in all of them."""
    leaves = [_leaves(each) for each in configurations]
    paths = sorted({path for found in leaves for path in found})
    rows = [
        (path, [_value(path, found, each) for found, each in zip(leaves, configurations, strict=True)])
        for path in paths
    ]
    return [(path, values) for path, values in rows if len(set(values)) > 1]


def variant_names(names: Sequence[Sequence[str]], fields: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """A name for each column, no two alike.

    Args:
        names: of the runs of each column, which differ in their seeds.
        fields: see `varying_fields`.
    """
    whole = [_together(each) for each in names]
    found = [
        f"{name} ({told})" if (told := _told(fields, whole.index(name), place)) else name
        for place, name in enumerate(whole)
    ]
    return [
        f"{name} ({number})" if (number := found[: place + 1].count(name)) > 1 else name
        for place, name in enumerate(found)
    ]


def natural_order(name: str, fields: Mapping[str, Any]) -> tuple[Any, ...]:
    """A key by which runs stand as a person expects: `b2` before `b10`, a document before what was changed in it."""
    leaves = _leaves(fields)
    values = ((_parts(path), _parts(leaves[path])) for path in sorted(leaves))
    return _parts(name), len(leaves), tuple(values)


def _parts(text: str) -> tuple[tuple[float, str], ...]:
    """Text with its numbers as numbers."""
    return tuple((float(part), "") if _NUMBER.fullmatch(part) else (-1.0, part) for part in _NUMBER.split(text) if part)


def _leaves(value: Mapping[str, Any], path: str = "") -> dict[str, str]:
    found = dict[str, str]()
    for key, item in value.items():
        at = f"{path}.{key}" if path else str(key)
        found |= _leaves(item, at) if is_object(item) else {at: item if isinstance(item, str) else canonical_json(item)}
    return found


def _value(path: str, leaves: Mapping[str, str], fields: Mapping[str, Any]) -> str:
    stage = path.partition(".")[0]
    if stage in set(Stage) and stage not in fields:
        return ABSENT.format(stage=stage)
    return leaves.get(path, DEFAULT)


def _together(names: Sequence[str]) -> str:
    """One name for runs that differ in their seeds."""
    distinct = list(dict.fromkeys(names))
    more = f" and {len(distinct) - NAMED_RUNS} more" if len(distinct) > NAMED_RUNS else ""
    return ", ".join(distinct[:NAMED_RUNS]) + more


def _told(fields: Sequence[tuple[str, Sequence[str]]], first: int, place: int) -> str:
    """How a column differs from the first one of its name; nothing where it takes too many words."""
    own = [(path.rpartition(".")[2], values[place]) for path, values in fields if values[place] != values[first]]
    text = ", ".join(f"{field} {value.strip('()')}" for field, value in own)
    return text if len(own) <= NAMED_FIELDS and len(text) <= NAMED_CHARACTERS else ""
