"""The stages before, as the digest of a stage names them: by their first output, and by the takedowns since.

Labels follow their pairs through a takedown, row by row, so they keep their folder. A model cannot forget a pair and a
page shows it, so training and evaluation count the takedowns that touched what they read: they find another folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from diht_k8s.api.hashing import differences, sha256_of
from diht_k8s.api.reports import Committed
from diht_k8s.api.run import Stage

TAKEN_DOWN: Final = "taken down"
"""Among a stage's inputs: how many pairs, and a digest of what is left."""
SHOWN: Final = 6
"""Differences that a person is shown."""


def pairs_before(filtered: Committed) -> dict[str, str]:
    """The filter among the inputs of a stage that reads the pairs it kept."""
    left = [[item.path, item.sha256] for item in filtered.artefacts if item.path.startswith("kept/")]
    return _named(filtered, filtered.summary.get("purged", 0), sha256_of(left))


def output_before(filtered: Committed) -> dict[str, str]:
    """The filter among the inputs of a stage that also shows what the filter dropped."""
    pairs = filtered.summary.get("purged", 0) + filtered.summary.get("forgotten", 0)
    return _named(filtered, pairs, filtered.output_sha256)


def _named(filtered: Committed, pairs: int, left: str) -> dict[str, str]:
    taken_down = {TAKEN_DOWN: f"{pairs} pairs, leaving {left}"} if pairs else {}
    return {Stage.FILTER.value: filtered.identity, **taken_down}


def why_new(before: Mapping[str, Any], config: Mapping[str, Any], *, complete: bool = True) -> str:
    """Why a stage does not find the folder of a configuration from before, for a person: `new because ...`; or nothing.

    Args:
        before: what the `config_sha256` of that folder covers.
        config: what that of the stage's new folder covers.
        complete: whether the stage had ended there.
    """
    stage, taken_down = config["stage"], _taken_down(before) < _taken_down(config)
    if taken_down and before["inputs"].get("filter") == config["inputs"].get("filter"):
        pairs = _taken_down(config) - _taken_down(before)
        before, config = _without_takedowns(before), _without_takedowns(config)
        why = [f"a takedown removed {pairs} {'pair' if pairs == 1 else 'pairs'} of its input"]
    else:
        why = []
    lines = [line.replace("config.", f"{stage}.", 1) for line in differences(before, config)]
    new = "new" if complete or not why else "begins again"
    return f"{new} because {listed([*why, *lines])}" if why or lines else ""


def listed(lines: Sequence[str]) -> str:
    """Some of the differences, on one line."""
    more = f"; and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    return "; ".join(line.replace(": ", " ", 1) for line in lines[:SHOWN]) + more


def _taken_down(config: Mapping[str, Any]) -> int:
    return int(str(config["inputs"].get(TAKEN_DOWN, "0")).partition(" ")[0])


def _without_takedowns(config: Mapping[str, Any]) -> dict[str, Any]:
    return {**config, "inputs": {name: value for name, value in config["inputs"].items() if name != TAKEN_DOWN}}
