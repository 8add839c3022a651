"""The results of a report at a glance: two sentences, headline figures, published ones beside; figures and names as
text.

Pure but for a packaged file.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, Final

import yaml

Json = dict[str, Any]

TYPE_NAMES: Final = {
    "Classification": "classification",
    "MultiLabel": "several classes an image",
    "Retrieval": "retrieval",
    "AnswerRanking": "answer ranking",
    "PairMatching": "pair matching",
    "CaptionChoice": "caption choice",
    "Association": "association",
}

REFERENCE: Final = "BPE ridge"
REFERENCES: Final = {"tokens": REFERENCE, "words": "kernel regression"}
"""The references' names, everywhere on the page."""

FEW_IMAGES: Final = 200
"""With fewer, the header gives the interval: it is wider than 10 points."""


def lede(content: Mapping[str, Any]) -> str:
    """The result in one or two sentences."""
    parts: list[str] = []
    if (benchmark := first_result(content, "Retrieval")) is not None:
        found, reference = benchmark["text_to_image"], reference_of(benchmark)
        parts.append(
            f"Given a caption, the model finds its image among {benchmark['pictures']:,} {split_name(benchmark)}images "
            "within the first five in "
            f"{percent(found['recall']['5'])} of cases{_interval(found['interval']['5'], benchmark)}; chance finds "
            f"{percent(found['chance']['5'])}"
            + (f", the {REFERENCE} {percent(reference['text_to_image']['recall']['5'])}." if reference else ".")
        )
    if (benchmark := first_result(content, "Classification")) is not None:
        parts.append(
            f"Zero-shot, its mean accuracy over {classes_with_images(benchmark)} classes {_of_split(benchmark)}is "
            f"{percent(benchmark['balanced'])}{_interval(benchmark['balanced_interval'], benchmark)}; guessing "
            f"gives {percent(benchmark['chance'])}."
        )
    for benchmark in content["benchmarks"]:
        for found in benchmark.get("scores", [])[:1]:
            parts.append(
                f"On {benchmark['name']}, the {found['name']} is {percent(found['value'])}; guessing gives "
                f"{percent(found['chance'])}."
            )
    return " ".join(parts) or "No benchmark of this run has a result."


def explained_reference(content: Mapping[str, Any]) -> str:
    """What the reference is; empty where no benchmark has one."""
    names = {reference["name"] for each in content["benchmarks"] for reference in each.get("references", [])}
    if not names:
        return ""
    words = (
        f". {REFERENCES['words'].capitalize()}: from tokens and the vectors of train.words to the same features"
        if "words" in names
        else ""
    )
    return (
        f"{REFERENCE}: ridge regression from BPE tokens and class names to a strong encoder's whitened features, "
        f"on the training pairs, in no more dimensions than the model's embedding has{words}"
    )


def _interval(interval: list[float], benchmark: Mapping[str, Any]) -> str:
    """The 95 % interval of a figure of few images, in brackets."""
    if benchmark["pictures"] >= FEW_IMAGES:
        return ""
    low, high = (f"{100 * edge:.0f}" for edge in interval)
    return f" (95\N{NO-BREAK SPACE}% interval {low} to {high})"


def model_title(content: Mapping[str, Any]) -> str:
    """What the evaluated model is called: as the training names its architecture, else as it was loaded."""
    if (train := content["config"]["spec"].get("train")) is not None:
        return train.get("model", "CLIP")
    return "No model" if content["model"] is None else content["model"]["name"]


def first_result(content: Mapping[str, Any], kind: str) -> Json | None:
    """The first benchmark of a type that has a result, of the held-out split if there is one."""
    found = [b for b in content["benchmarks"] if b["type"] == kind and "error" not in b]
    return min(found, key=lambda b: b.get("split") != "HeldOut", default=None)


def classes_with_images(benchmark: Mapping[str, Any]) -> int:
    """The classes of a Classification benchmark over which its balanced accuracy is the mean."""
    return sum(images > 0 for images in benchmark["class_pictures"])


def _of_split(benchmark: Mapping[str, Any]) -> str:
    return f"of the {split_name(benchmark)}split " if benchmark.get("split") else ""


def reference_of(benchmark: Mapping[str, Any]) -> Json | None:
    """The figures of a retrieval's reference; None without one."""
    return next(iter(benchmark.get("references", [])), None)


def headlines(result: Mapping[str, Any]) -> list[Json]:
    """The headline figures of a benchmark: metric, value, interval and the figure of guessing; [] if it failed."""
    if "error" in result:
        return []
    if result["type"] == "Retrieval":
        return [
            _headline(
                f"{name} R@1", result[key]["recall"]["1"], result[key]["interval"]["1"], result[key]["chance"]["1"]
            )
            for key, name in (("text_to_image", "caption to image,"), ("image_to_text", "image to caption,"))
        ]
    if result["type"] == "AnswerRanking":
        return [_headline("accuracy", result["accuracy"], result["accuracy_interval"], result["chance"])]
    if "scores" in result:
        return [_headline(each["name"], each["value"], each["interval"], each["chance"]) for each in result["scores"]]
    return [
        _headline("top-1", result["top1"], result["top1_interval"], result["chance"]),
        _headline("mean per class", result["balanced"], result["balanced_interval"], result["chance"]),
    ]


def overview(content: Mapping[str, Any]) -> list[Json]:
    """A row for each headline figure; a failed benchmark has one row with its error."""
    rows: list[Json] = []
    for number, result in enumerate(content["benchmarks"], start=1):
        kind = TYPE_NAMES[result["type"]]
        head = {"number": number, "name": result["name"], "type": kind, "split": result.get("split")}
        found = headlines(result)
        rows += [{**head, **figure} for figure in found] or [{**head, "error": result["error"]}]
    return rows


def published(content: Mapping[str, Any]) -> Json | None:
    """Published figures for the run's benchmarks, ours in the first row; None if there are none."""
    table = _published()
    own = _own_figures(content)
    columns = [index for index, name in enumerate(table["columns"]) if name in own]
    if not columns:
        return None
    ours = {"model": "This model", "samples": None, "source": "this report", "kind": "model"}
    ours["figures"] = [percent(own[table["columns"][index]]) for index in columns]
    rows = [
        {**row, "kind": "reference", "figures": [percent(row["figures"][index] / 100) for index in columns]}
        for row in table["rows"]
    ]
    return {"columns": [table["columns"][index] for index in columns], "rows": [ours, *rows]}


def _headline(metric: str, value: float, interval: list[float], chance: float) -> Json:
    return {"metric": metric, "value": value, "interval": interval, "chance": chance}


def _own_figures(content: Mapping[str, Any]) -> dict[str, float]:
    own: dict[str, float] = {}
    for result in content["benchmarks"]:
        if "error" in result:
            continue
        if result["type"] == "Classification":
            own[f"{result['name']} top1"] = result["top1"]
        elif result["type"] == "Retrieval":
            own[f"{result['name']} t2i"] = result["text_to_image"]["recall"]["1"]
            own[f"{result['name']} i2t"] = result["image_to_text"]["recall"]["1"]
    return own


@cache
def _published() -> Json:
    text = resources.files("diht_k8s.report").joinpath("published.yaml").read_text()
    return yaml.safe_load(text)


DASH: Final = "\u2013"
DIRECTIONS: Final = {"text_to_image": "caption to image", "image_to_text": "image to caption"}
SPLITS: Final = {"Development": "development", "HeldOut": "held-out"}


def percent(value: float | None) -> str:
    """A share in percent with one decimal; a dash for None."""
    return DASH if value is None else f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def points(value: float) -> str:
    """A difference of shares in points, with its sign."""
    return f"{100 * value:+.1f}".replace("-", "\N{MINUS SIGN}")


def count(value: float | None) -> str:
    """A whole number with separators; a dash for None."""
    return DASH if value is None else f"{value:,.0f}"


def decimal(value: float | None) -> str:
    """Three significant digits; numbers from 1,000 without decimals; a dash for None."""
    if value is None:
        return DASH
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """Seconds, minutes or hours."""
    if seconds is None:
        return "not recorded"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def split_name(benchmark: Mapping[str, Any]) -> str:
    """`held-out `, `development ` or nothing, to stand before a noun."""
    return f"{SPLITS[benchmark['split']]} " if benchmark.get("split") else ""
