"""Faults of nodes, as node monitors report them: conditions that are True, and taints. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from diht_k8s.controller.status_text import one_line

MOVES: Final = ("NextCheckpoint", "AtOnce")
KINDS: Final = ("condition", "taint")
MAX_DESCRIPTION: Final = 200


@dataclass(frozen=True)
class WatchedFault:
    """A fault that a monitor may report."""

    kind: str
    """condition or taint."""
    name: str
    """type of the condition, key of the taint."""
    at_once: bool = False
    """whether a gang leaves at once and not after its next checkpoint."""


@dataclass(frozen=True)
class NodeFault:
    """A fault of a node."""

    node: str
    name: str
    description: str
    """for a person, with the monitor's own message."""
    at_once: bool = False


def parse_watched_faults(text: str) -> tuple[WatchedFault, ...]:
    """The faults of the option `--node-faults`, a JSON list of `{"condition": NAME}` and `{"taint": KEY}`.

    Raises:
        ValueError: it is another thing; the message says what.
    """
    entries = json.loads(text)
    if not isinstance(entries, list):
        raise ValueError("write a JSON list")
    return tuple(_watched(entry) for entry in entries)


def _watched(entry: Any) -> WatchedFault:
    example = 'write {"condition": NAME} or {"taint": KEY}, each with "move": "AtOnce" if it is urgent'
    if not isinstance(entry, dict) or len(kinds := [kind for kind in KINDS if isinstance(entry.get(kind), str)]) != 1:
        raise ValueError(f"{json.dumps(entry)}: {example}")
    move = entry.get("move", MOVES[0])
    if move not in MOVES or not entry.keys() <= {*KINDS, "move"}:
        raise ValueError(f"{json.dumps(entry)}: {example}")
    return WatchedFault(kinds[0], entry[kinds[0]], at_once=move == "AtOnce")


def faults_of(document: Mapping[str, Any], watched: Iterable[WatchedFault]) -> tuple[NodeFault, ...]:
    """The faults of a node, urgent ones first."""
    name = document["metadata"]["name"]
    conditions = {each["type"]: each for each in (document.get("status") or {}).get("conditions") or ()}
    taints = {each["key"]: each for each in (document.get("spec") or {}).get("taints") or ()}
    found = []
    for each in watched:
        if each.kind == "condition" and conditions.get(each.name, {}).get("status") == "True":
            said = conditions[each.name].get("message", "")
            description = f"condition {each.name}" + (f" ({said})" if said else "")
        elif each.kind == "taint" and each.name in taints:
            taint = taints[each.name]
            description = f"taint {each.name}={taint.get('value', '')}:{taint.get('effect', '')}"
        else:
            continue
        found.append(NodeFault(name, each.name, one_line(description, MAX_DESCRIPTION), each.at_once))
    return tuple(sorted(found, key=lambda fault: not fault.at_once))
