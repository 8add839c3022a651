"""The model's card with its results: Hugging Face's `model-index` in the front matter, a table in the text. Pure.

The training writes a card into the export before anything is measured, and what it has committed does not change. So
this card stands beside the evaluation's report; a copy of it replaces the one in the model's folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import yaml

from diht_k8s.report.formatting import SPLITS
from diht_k8s.report.overview import headlines, model_title

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

Json = dict[str, Any]


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
