"""Content of an evaluation's `report.json`: results, evidence of the other stages, and the stages that are missing.

Evidence is markers, reports, training metrics and images; a stage that is absent from the run or not committed holds
only this state. Runs share an evaluation, so it holds nothing that its digest does not decide: no name, no placement,
no goodput. Those stand on the page of each run (`page.write_run_page`).
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
from diht_k8s.api.hashing import SCHEMA_VERSION, sha256_of, stages_fields
from diht_k8s.api.redaction import redacted_document
from diht_k8s.api.reports import Committed
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.shards.images import thumbnails
from diht_k8s.data.shards.pairs import read_pairs
from diht_k8s.data.shards.samples import Sample, until_damage
from diht_k8s.data.shards.sources import Shard, input_shards
from diht_k8s.report.caveats import caveats
from diht_k8s.runtime.commit import find_committed
from diht_k8s.runtime.inputs import kept_shards
from diht_k8s.runtime.stage import Context

IMAGE_KEYS: Final = ("thumbnails",)
MISSING_TEXTS: Final = {
    "absent": "This run has no {stage} stage.",
    "not committed": "The {stage} stage of this run has not been committed: its output is not shown.",
}

Json = dict[str, Any]


def report_content(
    run: DihtRun, config: Mapping[str, Any], results: Sequence[Mapping[str, Any]], evidence: Mapping[str, Any]
) -> Json:
    """The document, with images.

    Args:
        run: the run.
        config: the document that the evaluation's `config_sha256` covers.
        results: one per benchmark, in order; a failed one has `error`.
        evidence: see `gather_evidence`.
    """
    benchmarks = [{key: value for key, value in result.items() if key not in _HEADER_KEYS} for result in results]
    missing = {
        stage.value: MISSING_TEXTS[state].format(stage=stage.value)
        for stage in (Stage.FILTER, Stage.LABEL, Stage.TRAIN)
        if (state := evidence[stage.value]["state"]) in MISSING_TEXTS
    }
    content: Json = {
        "schema_version": SCHEMA_VERSION,
        "config_sha256": sha256_of(dict(config)),
        "stage_version": config["stage_version"],
        "inputs": config["inputs"],
        "run": {"seed": run.spec.training_seed, "stages": [stage.value for stage in run.spec.stages]},
        "model": next((result["model"] for result in results if "model" in result), None),
        "benchmarks": benchmarks,
        "missing": missing,
        "funnel": _funnel(evidence["filter"]),
        "filter": evidence["filter"],
        "label": evidence["label"],
        "train": evidence["train"],
        "data_card": evidence["data_card"],
        "cost": _cost(evidence),
        "config": redacted_document({"spec": {"seed": run.spec.seed, **stages_fields(run.spec)}}),
        "versions": evidence["versions"],
    }
    content["notes"] = caveats(content)
    return content


_HEADER_KEYS: Final = ("schema_version", "config_sha256", "inputs", "model")


def without_images(value: Any) -> Any:
    """The same document for programs, without data URIs."""
    if isinstance(value, Mapping):
        return {key: without_images(item) for key, item in value.items() if key not in IMAGE_KEYS}
    return [without_images(item) for item in value] if isinstance(value, list) else value


def _funnel(part: Mapping[str, Any]) -> list[Json]:
    """Samples left after each step, from the filter's report or else from its counts."""
    if part["state"] != "committed":
        return []
    if part["report"].get("funnel"):
        return part["report"]["funnel"]
    counts = part["summary"]["counts"]
    left = counts["input"]
    steps = [{"step": "input", "samples": left, "dropped": 0}]
    for step, dropped in [("readable", sum(counts["bad"].values())), *counts["dropped"].items()]:
        left -= dropped
        steps.append({"step": step, "samples": left, "dropped": dropped})
    return steps


def _cost(evidence: Mapping[str, Any]) -> list[Json]:
    """A row for each of the other stages; the evaluation's own time is known when its page is written, and is the
    run's.
    """
    found = ((stage, evidence[stage.value].get("summary")) for stage in (Stage.FILTER, Stage.LABEL, Stage.TRAIN))
    return [cost_row(stage, summary) for stage, summary in found if summary is not None]


def cost_row(stage: Stage, summary: Mapping[str, Any]) -> Json:
    """Samples, wall seconds of all programs and process-hours of a stage; None if its marker has no value."""
    held = summary.get("process_seconds")
    return {
        "stage": stage.value,
        "samples": summary.get("samples", summary.get("counts", {}).get("input")),
        "seconds": summary.get("wall_seconds"),
        "process_hours": None if held is None else round(held / 3600, 4),
    }


EXAMPLES_PER_REASON: Final = 6
CARD_PAIRS: Final = 10_000
"""Pairs that the data card covers."""
CARD_VALUES: Final = 8
LICENCE_KEYS: Final = ("licence", "license", "LICENSE")
PACKAGES: Final = ("diht-k8s", "torch", "open_clip_torch", "numpy", "scikit-learn", "pillow")


def gather_evidence(context: Context) -> Json:
    """`filter`, `label`, `train` (each with a `state`), the data card and the versions of the packages that
    measured.
    """
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
