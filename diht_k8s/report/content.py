"""Content of an evaluation's `report.json`: results, the other stages' evidence and the stages that are missing. Pure.

Runs share an evaluation, so it holds nothing that its digest does not decide: no name, no placement, no goodput. Those
stand on the page of each run (`report.run_page`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from diht_k8s.api.hashing import SCHEMA_VERSION, sha256_of, stages_fields
from diht_k8s.api.redaction import redacted_document
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.report.caveats import caveats

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
        evidence: see `report.evidence.gather_evidence`.
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
    """A row for each of the other stages; the evaluation's own time is known when its page is written, and is the run's."""
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
