"""The parts of the page: rows, bars, captions and charts from the report's content. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from diht_k8s.api.filter import Filter
from diht_k8s.api.train import Loss
from diht_k8s.api.wording import counted, enumerated
from diht_k8s.report.overview import (
    DIRECTIONS,
    REFERENCE,
    REFERENCES,
    classes_with_images,
    count,
    decimal,
    duration,
    first_result,
    percent,
    points,
    reference_of,
    split_name,
)
from diht_k8s.report.plots import Series, line_chart, thinned

Json = dict[str, Any]

STEP_NAMES: Final = {
    "input": "Raw pairs",
    "readable": "Readable",
    "exclude": "Not excluded",
    "language": "In the language",
    "objects": "Enough objects",
    "complexity": "Complexity (C)",
    "metadata": "Numbers within limits",
    "action": "Action (A)",
    "size": "Large enough, not too long",
    "benchmark": "Not in a benchmark",
    "clip_score": "Image like its caption (CLIP)",
    "text": "No painted caption (T)",
    "duplicate": "Image not seen before",
    "clip_share": "Most like their captions (CLIP)",
}
REASONS: Final = {
    "objects": "Caption names too few objects",
    "complexity": "Caption too simple (C)",
    "action": "No action in the caption (A)",
    "clip_score": "Image unlike its caption (CLIP score)",
    "text": "The image shows its own caption (T)",
    "language": "Caption in another language",
    "exclude": "On the exclude list",
    "metadata": "A number of the .json is out of bounds",
    "size": "Image too small or too long",
    "benchmark": "Image of a benchmark",
    "duplicate": "Image repeats an earlier one",
    "clip_share": "Not among the images most like their captions (CLIP score)",
}
OTHER_RULES: Final = {
    "exclude": "a list of exclusions",
    "language": "a caption in English",
    "metadata_limits": "limits of numbers",
    "min_side": "a least size of images",
    "max_aspect_ratio": "a largest aspect ratio",
    "decontaminate": "no near copy of a benchmark's image",
    "clip_score": "a CLIP score of image and caption",
    "duplicates": "no repeated image",
}
"""Fields of the filter -> what they ask for, beside CAT."""
UNSET: Final = (None, 0, [], "Any")
"""Values of these fields that drop nothing."""
CHARTS: Final = (
    ("Loss", {"loss": "total", "contrastive_loss": "contrastive", "validation_loss": "contrastive, held-out"}, False),
    ("Concept losses", {"object_loss": "objects", "attribute_loss": "attributes"}, False),
    ("Samples per second", {"samples_per_second": "samples/s"}, True),
    ("Waiting for data, % of the time", {"data_wait_percent": "% waiting"}, True),
    ("Learning rate", {"lr": "learning rate"}, True),
    ("Logit scale", {"logit_scale": "logit scale"}, False),
)
SHOWN_CHARTS: Final = 2
"""Charts that stand open; the others are folded."""
TABLE_ROWS: Final = 16


def bar(name: str, value: float, kind: str = "reference", interval: list[float] | None = None) -> Json:
    """One bar; value and interval are shares of the full width."""
    return {"name": name, "value": value, "kind": kind, "interval": interval, "text": percent(value)}


def scaled(rows: list[Json]) -> list[Json]:
    """Bars of a card, scaled to the longest one so that small rates stay comparable."""
    largest = max(max(row["value"], (row["interval"] or [0, 0])[1]) for row in rows) or 1.0
    return [
        {
            **row,
            "value": row["value"] / largest,
            "interval": row["interval"] and [edge / largest for edge in row["interval"]],
        }
        for row in rows
    ]


def queries(content: Json, benchmarks: list[Json]) -> Json | None:
    """The queries with which the page opens, and the images that they find; None without a retrieval benchmark.

    Args:
        content: of the report.
        benchmarks: its results, some without images.
    """
    shown = {**content, "benchmarks": benchmarks}
    if (found := first_result(shown, "Retrieval")) is None:
        return None
    captions = found["examples"]["text_to_image"]["drawn"]
    classes = first_result(shown, "Classification")
    hits = sum(hit["right"] for query in captions for hit in query["top"])
    return {"result": found, "captions": captions, "hits": hits, "classes": classes}


def cards(content: Json) -> list[Json]:
    """The headline figures, each beside its references and chance."""
    found: list[Json] = []
    if (benchmark := first_result(content, "Retrieval")) is not None:
        for key, direction in DIRECTIONS.items():
            rows = [bar("This model", benchmark[key]["recall"]["5"], "model", benchmark[key]["interval"]["5"])]
            rows += [bar(_system(reference), reference[key]["recall"]["5"]) for reference in benchmark["references"]]
            rows.append(bar("Chance", benchmark[key]["chance"]["5"]))
            title = f"{direction.capitalize()}, R@5"
            found.append(
                {
                    "title": title,
                    "value": rows[0]["text"],
                    "rows": scaled(rows),
                    "note": f"among {benchmark['pictures']:,} {split_name(benchmark)}images"
                    + _difference(benchmark, key),
                }
            )
    if (benchmark := first_result(content, "Classification")) is not None:
        rows = [
            bar("This model", benchmark["balanced"], "model", benchmark["balanced_interval"]),
            bar("Commonest class", 1 / classes_with_images(benchmark)),
            bar("Chance", benchmark["chance"]),
        ]
        images = f"{benchmark['pictures']:,} {split_name(benchmark)}images"
        note = f"mean over {classes_with_images(benchmark)} classes, {images}"
        found.append(
            {"title": "Zero-shot, balanced accuracy", "value": rows[0]["text"], "rows": scaled(rows), "note": note}
        )
    if content["funnel"]:
        total, left = content["funnel"][0]["samples"], content["funnel"][-1]["samples"]
        rows = [bar("Kept", left / total, "model"), bar("Dropped", 1 - left / total)]
        found.append(
            {
                "title": "Kept by the filter",
                "value": count(left),
                "rows": rows,
                "note": f"of {total:,} raw pairs",
            }
        )
    return found


def _system(reference: Json) -> str:
    name = REFERENCES[reference["name"]]
    return name[0].upper() + name[1:]


def _difference(benchmark: Json, key: str) -> str:
    """The paired difference to the reference, in points of R@5."""
    if (reference := reference_of(benchmark)) is None:
        return ""
    found = reference["difference"][key]
    low, high = found["interval"]
    return (
        f"; {points(found['value'])} points to the {REFERENCE}, "
        f"paired 95\N{NO-BREAK SPACE}% interval {points(low)} to {points(high)}"
    )


def steps(content: Json) -> list[Json]:
    """The stages that the run has: output and duration."""
    cost = {row["stage"]: row for row in content["cost"]}
    labels, train = content["label"].get("report", {}), content["train"].get("summary", {})
    figures = {
        "filter": f"{count(content['funnel'][-1]['samples'])} of {count(content['funnel'][0]['samples'])} pairs kept"
        if content["funnel"]
        else None,
        "label": ", ".join(
            f"{count(labels['vocabulary'][kind]['classes'])} {kind}" for kind in ("objects", "attributes")
        )
        if labels
        else None,
        "train": f"{count(train.get('samples'))} samples in {count(train.get('steps'))} steps" if train else None,
        "evaluate": counted(len(content["benchmarks"]), "benchmark"),
    }
    does = {
        "filter": "keeps informative pairs",
        "label": "teacher names concepts",
        "train": ", ".join(learned_from(content)),
        "evaluate": "this report",
    }
    return [
        {
            "name": name,
            "does": does[name],
            "figure": figures[name] or "not in this report",
            "seconds": duration(cost[name]["seconds"]) if cost.get(name, {}).get("seconds") is not None else None,
        }
        for name in does
        if name == "evaluate" or content[name]["state"] != "absent"
    ]


def learned_from(content: Json) -> list[str]:
    """What the training learns from, as its settings say."""
    train = content["config"]["spec"].get("train", {})
    distillation = train.get("distillation", {})
    has_heads = distillation.get("mode", "Concepts") == "Concepts"
    return [
        "hard negatives" if train.get("loss", {}).get("beta", Loss().beta) else "captions",
        *(["concept heads"] if has_heads else []),
        *(["a teacher's embeddings"] if distillation.get("embeddings") else []),
    ]


def funnel(content: Json) -> list[Json]:
    """Bars of the funnel, without optional steps that dropped nothing."""
    rows = content["funnel"]
    if not rows:
        return []
    total, off = rows[0]["samples"], _switched_off(content)
    return [
        {
            **bar(
                STEP_NAMES.get(row["step"], str(row["step"])) + off.get(row["step"], ""),
                row["samples"] / total,
                "plain",
            ),
            "samples": row["samples"],
            "dropped": row["dropped"],
        }
        for row in rows
        if row["dropped"] or row["step"] not in ("exclude", "language")
    ]


def filter_rules(content: Json) -> str:
    """What the filter of this run keeps, in a sentence, by its configuration."""
    if content["filter"]["state"] == "absent":
        return ""
    rules = Filter.model_validate(content["config"]["spec"]["filter"])
    needs = [
        *([f"names at least {counted(rules.min_objects, 'object')}"] if rules.min_objects else []),
        *(
            [f"says {counted(rules.min_complexity, 'thing')} about an object (complexity)"]
            if rules.min_complexity
            else []
        ),
        *([f"names at least {counted(rules.min_actions, 'action')}"] if rules.min_actions else []),
        *(["is not just text in the image (text spotting)"] if rules.text_spotting.mode == "Drop" else []),
    ]
    others = [name for field, name in OTHER_RULES.items() if getattr(rules, field) not in UNSET]
    said = f"This run keeps a pair when its caption {enumerated(needs)}" if needs else "This run has no rule of CAT"
    return f"{said}. Further rules: {', '.join(others)}." if others else f"{said}."


def _switched_off(content: Json) -> dict[str, str]:
    """Steps of CAT that drop nothing by the run's configuration, and what to add to their names."""
    rules = Filter.model_validate(content["config"]["spec"]["filter"])
    off = {"complexity": rules.min_complexity == 0, "action": rules.min_actions == 0}
    said = {step: ", off" for step, is_off in off.items() if is_off}
    if rules.text_spotting.mode != "Drop":
        said["text"] = ", off" if rules.text_spotting.mode == "Disabled" else ", only scored"
    return said


def dropped(content: Json) -> list[Json]:
    """Dropped pairs by reason, with their number and a few examples."""
    part = content["filter"]
    if part["state"] != "committed":
        return []
    counts = {
        **part["summary"]["counts"]["dropped"],
        **{f"bad:{k}": v for k, v in part["summary"]["counts"]["bad"].items()},
    }
    examples = part["report"].get("examples", {})
    return [
        {
            "title": REASONS.get(reason, reason.replace("bad:", "Unusable: ").replace("_", " ")),
            "number": number,
            "examples": [_example(part, example, reason) for example in examples.get(reason, [])],
        }
        for reason, number in counts.items()
        if number
    ]


def junk(content: Json) -> Json | None:
    """The rows of the table of junk, where the pool's kinds are known; None elsewhere."""
    found = content["filter"].get("report", {}).get("junk")
    if not found:
        return None
    named = [
        *((row["kind"], row) for row in found["kinds"]),
        ("All junk", found["junk"]),
        ("Wanted pairs", found["wanted"]),
    ]
    rows = [
        {**row, "name": name, "share": row["kept"] / row["pairs"], "by": _by_rule(row["dropped"])}
        for name, row in named
        if row["pairs"]
    ]
    return {**found, "rows": rows}


def _by_rule(dropped: Mapping[str, int]) -> str:
    return "; ".join(f"{REASONS.get(reason, reason)} {number:,}" for reason, number in dropped.items())


def damaged_shards(content: Json) -> list[Json]:
    """The raw shards of which the filter could use only the beginning."""
    return content["filter"].get("summary", {}).get("damaged_shards", [])


def kept_examples(content: Json) -> list[Json]:
    """A few pairs that the filter kept."""
    part = content["filter"]
    if part["state"] != "committed":
        return []
    return [_example(part, example, "kept") for example in part["report"].get("examples", {}).get("kept", [])]


def scores_text(example: Mapping[str, Any], reason: str) -> str:
    """The scores behind a reason, in a few words."""
    objects = ", ".join(example.get("objects", [])) or "none"
    if reason == "text":
        return f"reads “{' '.join(example.get('texts', []))}”"
    if reason == "action":
        return f"objects: {objects}; no action"
    if reason == "objects":
        return f"objects: {objects}"
    if reason == "complexity":
        return f"objects: {objects}; nothing attached"
    if reason == "kept":
        actions = ", ".join(example.get("actions", []))
        return f"objects: {objects}" + (f"; actions: {actions}" if actions else "")
    return reason.removeprefix("bad:").replace("_", " ")


def training_charts(content: Json) -> list[Json]:
    """Curves over samples seen, with the last values as text."""
    lines = content["train"].get("metrics", [])
    found: list[Json] = []
    for title, names, from_zero in CHARTS:
        series: list[Series] = []
        legend: list[Json] = []
        for name, shown in names.items():
            points = [(line["samples"], line.get(name)) for line in lines if "samples" in line]
            values = [value for _, value in points if value is not None]
            if any(values):  # a run without concept heads logs their losses as 0
                xs, ys = thinned([float(x) for x, _ in points], [y for _, y in points])
                series.append(Series(shown, xs, ys))
                legend.append({"name": shown, "first": decimal(values[0]), "last": decimal(values[-1])})
        if series:
            chart = line_chart(title, series, x_label="samples seen", from_zero=from_zero)
            found.append({"title": title, "chart": chart, "legend": legend})
    return found


def training_table(content: Json) -> Json:
    """The curves as a table, for readers who cannot see them: means over at most `TABLE_ROWS` intervals."""
    lines = [line for line in content["train"].get("metrics", []) if "samples" in line]
    names = {name: shown for _, names, _ in CHARTS for name, shown in names.items()}
    found = [name for name in names if any(line.get(name) is not None for line in lines)]
    xs = [float(line["samples"]) for line in lines]
    columns = [thinned(xs, [line.get(name) for line in lines], TABLE_ROWS)[1] for name in found]
    samples = thinned(xs, xs, TABLE_ROWS)[0]
    rows = [[count(x), *(decimal(column[row]) for column in columns)] for row, x in enumerate(samples)]
    return {"names": ["samples seen", *(names[name] for name in found)], "rows": rows}


def benchmark(result: Json) -> Json:
    """A benchmark as the page shows it."""
    view: Json = {"result": result, "systems": [], "classes": [], "few_shot": None}
    if "error" in result:
        return view
    if "class_precisions" in result:
        there = [each for each in result["class_precisions"] if each["precision"] is not None]
        rows = [bar(f"{each['name']} ({each['pictures']})", each["precision"], "plain") for each in there]
        view["classes"] = sorted(rows, key=lambda row: -row["value"])
    if result["type"] == "AnswerRanking" or "scores" in result:
        return view
    if result["type"] == "Retrieval":
        view["systems"] = _systems(result)
    else:
        named = zip(result["classes"], result["class_pictures"], result["per_class"], strict=True)
        rows = [bar(f"{name} ({images})", share or 0.0, "plain") for name, images, share in named if images]
        view["classes"] = sorted(rows, key=lambda row: -row["value"])
        view["commonest"] = 1 / classes_with_images(result)
        if result.get("few_shot", {}).get("points"):
            view["few_shot"] = _few_shot(result["few_shot"]["points"])
    return view


def _systems(result: Json) -> list[Json]:
    chance = {key: {"recall": result[key]["chance"]} for key in DIRECTIONS}
    systems = [{"name": "This model", "kind": "model", **{key: result[key] for key in DIRECTIONS}}]
    systems += [{**reference, "name": _system(reference), "kind": "reference"} for reference in result["references"]]
    return [*systems, {"name": "Chance", "kind": "reference", **chance}]


def _few_shot(points: list[Json]) -> Json:
    xs = [float(index) for index in range(len(points))]
    names = {
        "probe": "probe from zero-shot",
        "scratch": "probe from scratch",
        "zero_shot": "zero-shot",
        "pull": "L2 pull to zero-shot",
    }
    series = [
        Series(
            shown,
            xs,
            [point[kind]["mean"] for point in points],
            [] if kind in ("zero_shot", "pull") else [point[kind]["low"] for point in points],
            [] if kind in ("zero_shot", "pull") else [point[kind]["high"] for point in points],
        )
        for kind, shown in names.items()
    ]
    chart = line_chart(
        "Balanced accuracy by shots per class",
        series,
        x_label="shots per class",
        percent=True,
        x_names=[str(p["shots"]) for p in points],
    )
    return {"chart": chart, "points": points, "legend": [{"name": shown} for shown in names.values()]}


def _example(part: Json, example: Json, reason: str) -> Json:
    return {**example, "thumbnail": part["thumbnails"].get(example["uid"]), "why": scores_text(example, reason)}
