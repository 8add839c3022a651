"""Data card and model card of the page, and the model's card beside the report, from the run's records. Pure.

The latter has Hugging Face's `model-index` in its front matter and a table in the text. The training writes a card into
the export before anything is measured, and what it has committed does not change. So this card stands beside the
evaluation's report; a copy of it replaces the one in the model's folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import yaml

from diht_k8s.api.wording import counted
from diht_k8s.report.overview import SPLITS, headlines, model_title

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
        ("Source", f"{name}: {counted(shards, 'shard')} with pairs") for name, shards in card["sources"].items()
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


PATH: Final = "README.md"
TASKS: Final = {
    "Classification": ("zero-shot-image-classification", "Zero-Shot Image Classification"),
    "MultiLabel": ("zero-shot-image-classification", "Zero-Shot Image Classification"),
    "Retrieval": ("image-text-retrieval", "Image-Text Retrieval"),
    "AnswerRanking": ("visual-question-answering", "Visual Question Answering"),
    "PairMatching": ("image-text-matching", "Image-Text Matching"),
    "CaptionChoice": ("image-text-matching", "Image-Text Matching"),
    "Association": ("image-text-matching", "Image-Text Matching"),
}
METRICS: Final = {
    "top-1": "accuracy",
    "accuracy": "accuracy",
    "mean per class": "balanced_accuracy",
    "11-point mAP": "mean_average_precision_11_points",
    "all-point mAP": "mean_average_precision",
}
"""Headline figure -> type of the metric; others are recalls in a retrieval, else called by their names."""
FRONT: Final = {"library_name": "open_clip", "pipeline_tag": "zero-shot-image-classification", "tags": ["clip"]}
_FENCE: Final = "---\n"


def card_with_results(card: str | None, content: Mapping[str, Any]) -> str:
    """The card of an evaluated model.

    Args:
        card: the card beside the export, with front matter; None where the model has none.
        content: of the report.

    Returns:
        Markdown with YAML front matter.
    """
    name = model_title(content)
    front, text = _divided(card) if card is not None else (dict(FRONT), f"# {name}\n")
    results = model_results(content)
    if results:
        front["model-index"] = [{"name": name, "results": results}]
    head = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    return f"{_FENCE}{head}{_FENCE}{text.rstrip()}\n\n{_table(content)}\n"


def model_results(content: Mapping[str, Any]) -> list[Json]:
    """An entry for each benchmark with a result, figures in percent."""
    found: list[Json] = []
    for result in content["benchmarks"]:
        heads = headlines(result)
        if not heads:
            continue
        task, task_name = TASKS[result["type"]]
        dataset: Json = {"name": result["name"], "type": result["name"]}
        if result.get("split"):
            dataset["split"] = SPLITS[result["split"]]
        metrics = [
            {
                "type": _metric(result["type"], head["metric"]),
                "name": f"{head['metric']}, %",
                "value": _percent(head["value"]),
                "args": {"confidence_interval_95": [_percent(edge) for edge in head["interval"]]},
            }
            for head in heads
        ]
        found.append({"task": {"type": task, "name": task_name}, "dataset": dataset, "metrics": metrics})
    return found


def _metric(task: str, head: str) -> str:
    return METRICS.get(head) or ("recall_at_1" if task == "Retrieval" else head.lower().replace(" ", "_"))


def _percent(share: float) -> float:
    return round(100 * share, 2)


def _divided(card: str) -> tuple[Json, str]:
    """Front matter and text."""
    if not card.startswith(_FENCE):
        return dict(FRONT), card
    _, head, text = card.split(_FENCE, 2)
    return yaml.safe_load(head) or {}, text


def _table(content: Mapping[str, Any]) -> str:
    rows = [
        f"| {_cell(result['name'])} | {SPLITS.get(result.get('split'), '')} | {head['metric']} | "
        f"{_percent(head['value']):.1f} | {_percent(head['interval'][0]):.1f} to {_percent(head['interval'][1]):.1f} | "
        f"{_percent(head['chance']):.1f} |"
        for result in content["benchmarks"]
        for head in headlines(result)
    ]
    notes = "\n".join(f"- {_cell(note)}" for note in content["notes"])
    if not rows:
        return f"## Results\n\nNo benchmark has a result.\n\n{notes}"
    head = "| benchmark | split | figure | % | 95 % interval | guessing |\n|---|---|---|---:|---|---:|\n"
    return "## Results\n\n" + head + "\n".join(rows) + f"\n\nBefore you quote a figure:\n\n{notes}"


def _cell(text: str) -> str:
    """On one line, and no table of its own."""
    return " ".join(text.split()).replace("|", "\\|")
