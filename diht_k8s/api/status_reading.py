"""A status as it is read: what its models do not know is left out, so that nobody who may write one can stop its
run.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from diht_k8s.api.base import FieldPath, dotted, is_dict, is_list
from diht_k8s.api.run import Stage
from diht_k8s.api.status import Status
from diht_k8s.api.steps import STEPS, WAIT_STEP

ENTRIES: Final = frozenset(
    name
    for stage in Stage
    for name in (stage.value, *(f"{stage}-{step}" for step in STEPS.get(stage, ()) if step != WAIT_STEP))
)
"""The names that an entry of `stages` may have."""


@dataclass(frozen=True)
class ReadStatus:
    """A status and what was left out of it."""

    status: Status
    unknown: tuple[str, ...] = ()
    """places that the models do not know, for example `stages[0].state`."""


def read_status(document: Mapping[str, Any] | None) -> ReadStatus:
    """The status of a run, without what a newer operator, or anybody else, has put there. Never raises."""
    found, unknown = dict(document or {}), list[str]()
    while True:
        try:
            status = Status.model_validate(found)
            break
        except ValidationError as error:
            places = {_existing(found, each["loc"]) for each in error.errors(include_url=False, include_input=False)}
            found = copy.deepcopy(found) if not unknown else found
            for place in sorted(places, key=_later_first, reverse=True):
                unknown.append(dotted(place))
                _remove(found, place)
    strangers = [entry.name for entry in status.stages if entry.name not in ENTRIES]
    if strangers:
        status = status.model_copy(update={"stages": [each for each in status.stages if each.name in ENTRIES]})
    return ReadStatus(status, (*unknown, *(f"stage {name}" for name in strangers)))


def _later_first(place: FieldPath) -> list[tuple[bool, int, str]]:
    """Orders items of one list by their number: the last is removed first, and the others keep theirs."""
    return [(isinstance(key, int), key if isinstance(key, int) else 0, str(key)) for key in place]


def _existing(document: Any, place: FieldPath) -> FieldPath:
    """The part of a place that the document has: of a missing field the object that lacks it."""
    for depth, key in enumerate(place):
        children = _children(document)
        if key not in children:
            return place[:depth]
        document = children[key]
    return place


def _children(value: Any) -> dict[Any, Any]:
    """The values of an object by name, or of a list by number; none of anything else."""
    return value if is_dict(value) else dict(enumerate(value)) if is_list(value) else {}


def _remove(document: Any, place: FieldPath) -> None:
    """Take a place out of a document, with the whole document for an empty one."""
    if not place:
        document.clear()
        return
    *outer, last = place
    for key in outer:
        document = document[key]
    del document[last]
