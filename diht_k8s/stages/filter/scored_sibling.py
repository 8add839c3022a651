"""Scores of another filter of the same output: other thresholds over the same shards parse no caption again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diht_k8s.api.layout import Layout, join
from diht_k8s.api.run import Stage
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.commit import find_committed

_NO_SHARDS = ("exclude list", "benchmark ")
"""Names of inputs that the scores do not depend on begin so (`filter.stage.identify`)."""


def scored_sibling(storage: Storage, layout: Layout, config: Mapping[str, Any]) -> str | None:
    """The complete filter of an output whose scores save most; None if there is none over the same shards.

    Args:
        storage: of the output.
        layout: with the folder of the filter that begins.
        config: of the filter that begins.

    Returns:
        Its folder relative to the output: with the same models if there is one, the first by name among equals.
    """
    found: list[tuple[int, str]] = []
    for name in storage.folders(join(layout.output, Stage.FILTER.value)):
        other = layout.with_folder(Stage.FILTER, join(layout.output, Stage.FILTER.value, name))
        committed = find_committed(storage, other, Stage.FILTER)
        if committed is None or other == layout or _shards(committed.inputs) != _shards(config["inputs"]):
            continue
        programs = committed.config["programs"]
        missing = sum(programs.get(model) != version for model, version in config["programs"].items())
        if programs.get("parser") == config["programs"]["parser"]:
            found.append((missing, other.relative(Stage.FILTER)))
    return min(found)[1] if found else None


def _shards(inputs: Mapping[str, str]) -> dict[str, str]:
    return {name: identity for name, identity in inputs.items() if not name.startswith(_NO_SHARDS)}
