"""A training of the same output that differs only in fewer `train.samples`: a longer one can go on from it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from diht_k8s.api.layout import MARKER, Layout, join
from diht_k8s.api.run import Stage
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.commit import find_committed, find_started


def offer_shorter_sibling(storage: Storage, layout: Layout, config: Mapping[str, Any]) -> str:
    """How to go on from the longest of the shorter trainings, for a person; empty where there is none.

    Args:
        storage: of the output.
        layout: with the folder of the training that begins.
        config: of the training that begins.
    """
    if "initFrom" in config["config"]:
        return ""
    found: list[tuple[int, str, str]] = []
    for name in storage.folders(join(layout.output, Stage.TRAIN.value)):
        other = layout.with_folder(Stage.TRAIN, join(layout.output, Stage.TRAIN.value, name))
        started = find_started(storage, other, Stage.TRAIN)
        if started is None or _without_samples(started.config) != _without_samples(config):
            continue
        samples = started.config["config"]["samples"]
        if samples < config["config"]["samples"] and (start := _start(storage, other)) is not None:
            found.append((samples, other.relative(Stage.TRAIN), start))
    if not found:
        return ""
    samples, folder, start = max(found)
    return f"{folder} is the same training of {samples} samples; to go on from it: {start}"


def _without_samples(config: Mapping[str, Any]) -> dict[str, Any]:
    return {**config, "config": {name: value for name, value in config["config"].items() if name != "samples"}}


def _start(storage: Storage, layout: Layout) -> str | None:
    """The overrides that begin where a training is: at its newest checkpoint, else with its model."""
    names = sorted(storage.folders(layout.checkpoints), reverse=True)
    folders = (join(layout.checkpoints, name) for name in names)
    if (checkpoint := next((uri for uri in folders if storage.exists(join(uri, MARKER))), None)) is not None:
        return f"--set {shlex.quote(f'train.initFrom.uri={checkpoint}')} --set train.initFrom.kind=Checkpoint"
    if find_committed(storage, layout, Stage.TRAIN) is not None:
        return f"--set {shlex.quote(f'train.initFrom.uri={layout.model}')}"
    return None
