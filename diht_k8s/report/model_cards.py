"""Data card and model card of the page: origin, licence, size and limits, from the run's records. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

Json = dict[str, Any]
Row = tuple[str, str]

NOT_RECORDED: Final = "not recorded"
LOSSES: Final = "hard-negative NCE (alpha {alpha}, beta {beta}), concept distillation: {mode}"


def data_card(content: Mapping[str, Any]) -> list[Row]:
    """Rows (what, answer) about the training data; none where the run only evaluates and names no pairs."""
    card = content["data_card"]
    if content["run"]["stages"] == ["evaluate"] and not card["sources"]:
        return []
    rows: list[Row] = [
        ("Source", f"{name}: {shards:,} {'shard' if shards == 1 else 'shards'} with pairs")
        for name, shards in card["sources"].items()
    ]
    if content["funnel"]:
        first, last = content["funnel"][0]["samples"], content["funnel"][-1]["samples"]
        rows.append(("Pairs", f"{first:,} raw, {last:,} after the filter"))
    looked = f" (of the first {card['pairs']:,} pairs)" if card["pairs"] else ""
    rows.append(("Licences", (_counted(card["licences"]) or NOT_RECORDED) + (looked if card["licences"] else "")))
    rows.append(("Origins", (_counted(card["origins"]) or NOT_RECORDED) + (looked if card["origins"] else "")))
    rows.append(("Dates", _dates(card["dates"])))
    bad = content["filter"].get("summary", {}).get("counts", {}).get("bad", {})
    rows.append(("Unusable pairs", _counted(bad) or "none counted"))
    rows.append(
        (
            "Known faults",
            "captions are unchanged: alternative texts may be wrong, cut off, or about something not shown",
        )
    )
    return rows


def model_card(content: Mapping[str, Any]) -> list[Row]:
    """Rows (what, answer) about the model."""
    model = content["model"]
    if model is None:
        return [("Model", "none could be loaded")]
    rows: list[Row] = [("Model", f"{model['name']}, {model['parameters']:,} parameters"), ("Origin", model["source"])]
    train, summary = content["config"]["spec"].get("train"), content["train"].get("summary")
    if train is not None and model["source"] == "trained by this run":
        loss, mode = train.get("loss", {}), train.get("distillation", {}).get("mode", "Concepts")
        text = LOSSES.format(alpha=loss.get("alpha", 1), beta=loss.get("beta", "as by default"), mode=mode)
        rows.append(("Training", text))
        if summary:
            rows.append(("Seen", f"{summary['samples']:,} samples in {summary['steps']:,} steps"))
    rows += [
        (
            "Intended use",
            "research on filtering and pre-training; zero-shot classification, retrieval, frozen features",
        ),
        ("Out of scope", "decisions about people; nothing here measures bias, safety or failures on other data"),
        ("Licence", f"{NOT_RECORDED}: depends on the training images and captions"),
        ("Known faults", "; ".join(_faults(content)) or "see the notes at the top"),
    ]
    return rows


def _faults(content: Mapping[str, Any]) -> list[str]:
    """Benchmarks on which the model is no better than guessing or a constant answer."""
    done = [r for r in content["benchmarks"] if r["type"] == "Classification" and "error" not in r]
    texts = {
        "not clearly better than guessing on": [r["name"] for r in done if r["balanced_interval"][0] <= r["chance"]],
        "top-1 below that of the most common class on": [r["name"] for r in done if r["top1"] < r["majority"]],
    }
    return [f"{text} {', '.join(names)}" for text, names in texts.items() if names]


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in counts.items())


def _dates(dates: list[str]) -> str:
    return NOT_RECORDED if not dates else dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
