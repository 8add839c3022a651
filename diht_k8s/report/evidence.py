"""Evidence from the other stages for the report: markers, reports, training metrics and images.

A stage may be absent from the run or not committed; its part then holds only this state.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import json
import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.api.reports import Committed
from diht_k8s.api.run import Stage
from diht_k8s.data.shards.images import thumbnails
from diht_k8s.data.shards.pairs import read_pairs
from diht_k8s.data.shards.samples import Sample, until_damage
from diht_k8s.data.shards.sources import Shard, input_shards
from diht_k8s.runtime.commit import find_committed
from diht_k8s.runtime.inputs import kept_shards
from diht_k8s.runtime.stage import Context

EXAMPLES_PER_REASON: Final = 6
CARD_PAIRS: Final = 10_000
"""Pairs that the data card covers."""
CARD_VALUES: Final = 8
LICENCE_KEYS: Final = ("licence", "license", "LICENSE")
PACKAGES: Final = ("diht-k8s", "torch", "open_clip_torch", "numpy", "scikit-learn", "pillow")

Json = dict[str, Any]


def gather_evidence(context: Context) -> Json:
    """`filter`, `label`, `train` (each with a `state`), the data card and the versions of the packages that measured."""
    return {
        "filter": _filter(context),
        "label": _label(context),
        "train": _train(context),
        "data_card": _data_card(context),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in PACKAGES},
        },
    }


def _state(context: Context, stage: Stage) -> tuple[Json, Committed | None]:
    if getattr(context.run.spec, stage.value) is None:
        return {"state": "absent"}, None
    committed = find_committed(context.storage, context.layout, stage)
    if committed is None:
        return {"state": "not committed"}, None
    return {"state": "committed", "config_sha256": committed.config_sha256, "summary": committed.summary}, committed


def _filter(context: Context) -> Json:
    part, committed = _state(context, Stage.FILTER)
    if committed is None:
        return part
    part["summary"] = {name: value for name, value in committed.summary.items() if name != "shards"}
    part["report"] = report = _document(context, Stage.FILTER)
    shard_of = {shard.name: shard for shard in input_shards(context.run.spec, context.storage)}
    examples = {reason: found[:EXAMPLES_PER_REASON] for reason, found in report.get("examples", {}).items()}
    report["examples"] = examples
    wanted = [
        (shard_of[example["shard"]], example["uid"])
        for reason, found in examples.items()
        for example in found
        if example["shard"] in shard_of and not reason.startswith("bad:")
    ]
    part["thumbnails"] = thumbnails(context.storage, wanted)
    return part


def _label(context: Context) -> Json:
    part, committed = _state(context, Stage.LABEL)
    if committed is None:
        return part
    part["report"] = report = _document(context, Stage.LABEL)
    shard_of = {shard.name: shard for shard in kept_shards(context.run.spec, context.storage, context.layout)}
    examples = [example for example in report.get("examples", []) if example["shard"] in shard_of]
    part["thumbnails"] = thumbnails(context.storage, [(shard_of[item["shard"]], item["uid"]) for item in examples])
    return part


def _train(context: Context) -> Json:
    part, committed = _state(context, Stage.TRAIN)
    if committed is not None and context.storage.exists(context.layout.metrics):
        lines = context.storage.read_text(context.layout.metrics).splitlines()
        part["metrics"] = [json.loads(line) for line in lines if line.strip()]
    return part


def _data_card(context: Context) -> Json:
    """The sources' shards, and licences, origins and dates of the first training pairs."""
    licences, origins, dates, pairs = Counter[str](), Counter[str](), set[str](), 0
    try:
        shards = kept_shards(context.run.spec, context.storage, context.layout)
    except UserError:
        shards = []
    for sample in itertools.islice(_samples(context, shards), CARD_PAIRS):
        pairs += 1
        licences.update(_texts(sample.meta, LICENCE_KEYS))
        origins.update(_texts(sample.meta, ("source",)))
        dates.update(_texts(sample.meta, ("date",)))
    return {
        "sources": dict(Counter(shard.source for shard in shards)),
        "pairs": pairs,
        "licences": dict(licences.most_common(CARD_VALUES)),
        "origins": dict(origins.most_common(CARD_VALUES)),
        "dates": [min(dates), max(dates)] if dates else [],
    }


def _samples(context: Context, shards: Sequence[Shard]) -> Iterator[Sample]:
    """Samples of all shards up to the first one that cannot be read, which must not fail the report."""
    with contextlib.suppress(DataError, UserError):
        for shard in shards:
            yield from until_damage(read_pairs(context.storage, shard))


def _texts(meta: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    found = next((meta[key] for key in keys if isinstance(meta.get(key), str)), None)
    return [] if found is None else [found[:60]]


def _document(context: Context, stage: Stage) -> Json:
    """A stage's `report.json`, {} if it has none."""
    uri = context.layout.report(stage)
    return json.loads(context.storage.read_bytes(uri)) if context.storage.exists(uri) else {}
