"""Comparison of runs: a page and a table from several `report.json`, with what differs and paired differences. Pure.

Runs that differ only in seed share a column; two of one seed and other inputs do not, nor two whose benchmarks hold
other files. A column is named by the fields in which its variant of a run differs. Differences are paired over the
images that both columns saw, and corrected for their number on the page.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any, Final

import numpy as np

from diht_k8s.api.base import is_object
from diht_k8s.api.documents import canonical_json
from diht_k8s.api.hashing import sha256_of
from diht_k8s.api.layout import DIGITS
from diht_k8s.api.redaction import redacted_document
from diht_k8s.api.run import Stage
from diht_k8s.api.wording import columns, first_of
from diht_k8s.report.average_precision import paired_precisions
from diht_k8s.report.overview import SPLITS, headlines, points
from diht_k8s.report.page import environment
from diht_k8s.report.per_image import PerImage, holm, paired_differences, verdict
from diht_k8s.report.plots import Series, line_chart, thinned

Json = dict[str, Any]
Run = tuple[Mapping[str, Any], Mapping[str, PerImage]]
"""A report, and the images of its benchmarks by name."""

CURVES: Final = (("Training loss", "loss"), ("Held-out loss", "validation_loss"))
MAX_LINES: Final = 8
"""Lines of a chart that can be told apart."""
SEED: Final = 2024
"""Of the resamples: a comparison printed twice is the same."""
EXAMPLES: Final = 6
NOT_PAIRED: Final = "not the same images, captions, candidates or classes"
NOT_TOLD: Final = "one side does not keep all that was asked: run the stage evaluate again"
LEAST_IMAGES: Final = 6
"""Five images that all gain happen by chance in one case of 16 (sign test)."""
TOO_FEW: Final = f"fewer than {LEAST_IMAGES} images decide nothing"
NO_IMAGES: Final = "no images are kept: run the stage evaluate again"
OTHER_VERSION: Final = "evaluated by programs that give other figures: run the stage evaluate again"


def comparison(reports: Sequence[Mapping[str, Any]], per_image: Sequence[Mapping[str, PerImage]] | None = None) -> Json:
    """Columns (runs of one configuration), rows (figures) and differences from the first column.

    Args:
        reports: contents of `report.json`, in order.
        per_image: for each report the images of its benchmarks by name; without it no difference is tested.
    """
    runs = _grouped([(report, {} if per_image is None else per_image[row]) for row, report in enumerate(reports)])
    columns = [[report for report, _ in group] for group in runs]
    rows: dict[tuple[str, str], Json] = {}
    for number, group in enumerate(columns):
        for report in group:
            for key, value, percent in _figures(report):
                row = rows.setdefault(key, {"name": key[0], "figure": key[1], "percent": percent, "values": {}})
                row["values"].setdefault(number, []).append(value)
    named = [each for report in reports for each in report["benchmarks"] if each.get("split")]
    splits = {each["name"]: SPLITS[each["split"]] for each in named}
    for row in rows.values():
        row["split"] = splits.get(row["name"])
        row["cells"] = [_cell(row["values"].get(number, [])) for number in range(len(columns))]
        del row["values"]
    tested = [differences_of(runs[0], group) for group in runs[1:]]
    _decide([difference for found in tested for difference in found.values() if "p" in difference])
    for key, row in rows.items():
        for cell, found in zip(row["cells"][1:], tested, strict=True):
            cell["difference"] = found.get(key)
    fields = varying_fields([configuration(group[0]) for group in columns])
    named_columns = _named_columns(columns, fields)
    return {
        "columns": named_columns,
        "rows": list(rows.values()),
        "seeds": [len(group) for group in columns],
        "changed": [changed_images(runs[0][0], group[0]) for group in runs[1:]],
        "charts": _charts(columns, [column["name"] for column in named_columns]),
        "fields": [{"field": field, "values": values} for field, values in (*fields, *_other_inputs(columns))],
    }


def _grouped(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs of each column, columns in the order of their first run."""
    groups: list[tuple[str, list[Run]]] = []
    for run in runs:
        decides = canonical_json([configuration(run[0]), _asked_of(run[0])])
        fitting = (
            group for key, group in groups if key == decides and not any(_is_remade(run, each) for each in group)
        )
        if (group := next(fitting, None)) is None:
            groups.append((decides, [run]))
        else:
            group.append(run)
    return [group for _, group in groups]


def _is_remade(run: Run, other: Run) -> bool:
    """Whether two runs of one configuration and seed read other data: they show no spread over seeds."""
    (report, _), (earlier, _) = run, other
    return report["run"]["seed"] == earlier["run"]["seed"] and report.get("inputs") != earlier.get("inputs")


def _asked_of(report: Mapping[str, Any]) -> dict[str, str]:
    """What decides a report's figures beside its configuration and model: the benchmarks' files, and the program's
    version.
    """
    names = tuple(f"{result['name']} " for result in report["benchmarks"])
    files = {
        f"content of {name}": sha256_of(identity)[:DIGITS]
        for name, identity in (report.get("inputs") or {}).items()
        if name.startswith(names)
    }
    return {**files, "version of evaluate": str(report.get("stage_version", "-"))}


def _other_inputs(columns: Sequence[Sequence[Mapping[str, Any]]]) -> list[tuple[str, list[str]]]:
    """What tells columns of one configuration apart, with the value of every column."""
    asked = [_asked_of(group[0]) for group in columns]
    alike: dict[str, list[dict[str, str]]] = {}
    for group, each in zip(columns, asked, strict=True):
        alike.setdefault(canonical_json(configuration(group[0])), []).append(each)
    names = {name for found in alike.values() for each in found for name in each}
    differing = (
        name for name in sorted(names) if any(len({each.get(name) for each in found}) > 1 for found in alike.values())
    )
    return [(name, [each.get(name, "-") for each in asked]) for name in differing]


def _decide(differences: Sequence[Json]) -> None:
    """Put p-values corrected for all differences of the page, and the verdicts, into the differences."""
    for difference, p in zip(differences, holm([each["p"] for each in differences]), strict=True):
        difference |= {"adjusted_p": p, "verdict": verdict(difference["value"], p)}


def differences_of(first: Sequence[Run], second: Sequence[Run]) -> dict[tuple[str, str], Json]:
    """(benchmark, headline figure) -> difference of two columns, each of one or more seeds, before any correction.

    A figure without paired images has only `why`.
    """
    found: dict[tuple[str, str], Json] = {}
    for result in first[0][0]["benchmarks"]:
        names = [head["metric"] for head in headlines(result)]
        if not all(any(other["name"] == result["name"] for other in run[0]["benchmarks"]) for run in second):
            continue
        for name, difference in zip(names, _paired(result["name"], names, first, second), strict=True):
            found[result["name"], name] = difference
    return found


def _paired(name: str, figures: Sequence[str], first: Sequence[Run], second: Sequence[Run]) -> list[Json]:
    if len({report.get("stage_version") for report, _ in (*first, *second)}) > 1:
        return [{"why": OTHER_VERSION} for _ in figures]
    sides = [[kept.get(name) for _, kept in runs] for runs in (first, second)]
    if any(images is None for side in sides for images in side):
        return [{"why": NO_IMAGES} for _ in figures]
    reference = sides[0][0]
    assert reference is not None
    ordered = [[each.in_order_of(reference.uids) for each in side if each is not None] for side in sides]
    both = [[each for each in side if each is not None and _same_questions(each, reference)] for side in ordered]
    if [len(side) for side in both] != [len(side) for side in sides]:
        if len({bool(each.asked) for side in sides for each in side if each is not None}) > 1:
            return [{"why": NOT_TOLD} for _ in figures]
        return [{"why": NOT_PAIRED} for _ in figures]
    if len(reference.uids) < LEAST_IMAGES:
        return [{"why": TOO_FEW} for _ in figures]
    seeds = [[run[0]["run"]["seed"] for run in runs] for runs in (first, second)]
    same_seeds, rng = seeds[0] == seeds[1], np.random.default_rng(SEED)
    if reference.rankings:
        scores = [np.stack([[row for row, _ in each.rankings.values()] for each in side]) for side in both]
        truth_CN = np.stack([truth_N for _, truth_N in reference.rankings.values()])
        found = paired_precisions(scores[0], scores[1], truth_CN, rng, same_seeds=same_seeds)
    else:
        hits = [np.stack([[each.figures[figure][0] for each in side] for figure in figures]) for side in both]
        weights_FN = np.stack([reference.figures[figure][1] for figure in figures])
        found = paired_differences(hits[0], hits[1], weights_FN, rng, same_seeds=same_seeds)
    return [{"value": each.value, "interval": [each.low, each.high], "p": each.p} for each in found]


def _same_questions(images: PerImage, reference: PerImage) -> bool:
    """Whether two sides have the same figures, and were asked the same about each image in as many queries."""
    if images.figures.keys() != reference.figures.keys() or list(images.rankings) != list(reference.rankings):
        return False
    if images.texts != reference.texts or images.asked != reference.asked:
        return False  # weights tell no class where all classes have as many images, texts no candidates
    return all(
        np.array_equal(ours[name][1], asked_N)
        for ours, theirs in ((images.figures, reference.figures), (images.rankings, reference.rankings))
        for name, (_, asked_N) in theirs.items()
    )


def changed_images(first: Run, second: Run) -> list[Json]:
    """For each benchmark of both: the images that one side gets right and the other does not, and how many."""
    found: list[Json] = []
    for result in first[0]["benchmarks"]:
        heads = headlines(result)
        ours, theirs = first[1].get(result["name"]), second[1].get(result["name"])
        aligned = None if ours is None or theirs is None else theirs.in_order_of(ours.uids)
        if not heads or ours is None or aligned is None or not _same_questions(aligned, ours):
            continue
        if (figure := heads[0]["metric"]) not in ours.figures:
            continue
        gains_N = aligned.figures[figure][0] - ours.figures[figure][0]
        part: Json = {"name": result["name"], "figure": figure}
        for kind, rows in (
            ("wins", np.argsort(-gains_N, kind="stable")),
            ("losses", np.argsort(gains_N, kind="stable")),
        ):
            changed = [int(row) for row in rows if (gains_N[row] > 0 if kind == "wins" else gains_N[row] < 0)]
            part[kind] = len(changed)
            part[f"{kind}_shown"] = [
                {"uid": ours.uids[row], "shard": ours.shards[row], "text": ours.texts[row]}
                for row in changed[:EXAMPLES]
            ]
        found.append(part)
    return found


def comparison_page(compared: Mapping[str, Any], thumbnails: Mapping[str, str] | None = None) -> str:
    """The page: one file without a script.

    Args:
        compared: see `comparison`.
        thumbnails: uid -> data URI of the images that changed.
    """
    templates = environment()
    templates.filters["points"] = points
    return templates.get_template("comparison.html.jinja").render(**compared, thumbnails=thumbnails or {})


def comparison_text(compared: Mapping[str, Any]) -> str:
    """The table for a terminal."""
    names = [column["name"] for column in compared["columns"]]
    lines = [["", *names]]
    for row in compared["rows"]:
        split = f" ({row['split']} split)" if row["split"] else ""
        lines.append(
            [f"{row['name']}{split} {row['figure']}", *(_shown(cell, row["percent"]) for cell in row["cells"])]
        )
    return "\n".join([*columns(lines), *_difference_lines(compared)])


def _difference_lines(compared: Mapping[str, Any]) -> list[str]:
    names = [column["name"] for column in compared["columns"]]
    lines: list[str] = []
    for row in compared["rows"]:
        for name, cell in zip(names[1:], row["cells"][1:], strict=True):
            if (found := cell["difference"]) is not None:
                lines.append(f"{row['name']} {row['figure']}: {difference_sentence(name, names[0], found)}")
    return ["", "Differences, paired over the images:", *lines] if lines else []


def difference_sentence(name: str, first: str, found: Mapping[str, Any]) -> str:
    """A difference in a sentence, for example `b is better than a by +2.1 points (95 % interval +0.4 to +3.8)`."""
    if "why" in found:
        return f"{name} and {first} cannot be paired: {found['why']}"
    low, high = found["interval"]
    relation = "not clearly different from" if found["verdict"].startswith("not") else f"{found['verdict']} than"
    return (
        f"{name} is {relation} {first}: {points(found['value'])} points "
        f"(95 % interval {points(low)} to {points(high)}, corrected p {found['adjusted_p']:.2g})"
    )


def _charts(columns: Sequence[Sequence[Mapping[str, Any]]], names: Sequence[str]) -> list[Json]:
    """Loss curves of the training, one line a column (its first seed), over each other."""
    found: list[Json] = []
    for title, key in CURVES:
        series: list[Series] = []
        for group, name in list(zip(columns, names, strict=True))[:MAX_LINES]:
            lines = [line for line in group[0]["train"].get("metrics", []) if line.get(key) is not None]
            samples = [line.get("samples", number) for number, line in enumerate(lines)]
            xs, ys = thinned(samples, [line[key] for line in lines])
            series.append(Series(name, xs, ys))
        if chart := line_chart(title, series, x_label="samples"):
            found.append({"title": title, "svg": chart, "names": [{"name": line.name} for line in series]})
    return found


def _named_columns(
    columns: Sequence[Sequence[Mapping[str, Any]]], fields: Sequence[tuple[str, Sequence[str]]]
) -> list[Json]:
    names = variant_names([[_name(report) for report in group] for group in columns], fields)
    seeds = [", ".join(str(report["run"]["seed"]) for report in group) for group in columns]
    return [
        {"name": name, "runs": len(group), "seeds": each}
        for name, group, each in zip(names, columns, seeds, strict=True)
    ]


def _name(report: Mapping[str, Any]) -> str:
    """The name of the run; results that no run is known of go by their digest."""
    return report["run"].get("name") or str(report.get("config_sha256", "unnamed"))[:DIGITS]


def _figures(report: Mapping[str, Any]) -> list[tuple[tuple[str, str], float, bool]]:
    """((stage or benchmark, figure), value, whether it is a share) of one run."""
    found: list[tuple[tuple[str, str], float, bool]] = []
    if report["funnel"]:
        found.append((("filter", "pairs kept"), report["funnel"][-1]["samples"], False))
    lines = [line for line in report["train"].get("metrics", []) if line.get("loss") is not None]
    if lines:
        found.append((("train", "last loss"), lines[-1]["loss"], False))
    for result in report["benchmarks"]:
        found += [((result["name"], head["metric"]), head["value"], True) for head in headlines(result)]
        for point in result.get("few_shot", {}).get("points", []):
            found.append(((result["name"], f"probe, {point['shots']} shots"), point["probe"]["mean"], True))
    return found


def _cell(values: Sequence[float]) -> Json:
    """Mean over the seeds, and their standard deviation if there are several."""
    return {
        "mean": mean(values) if values else None,
        "deviation": stdev(values) if len(values) > 1 else None,
        "runs": len(values),
    }


def _shown(cell: Mapping[str, Any], percent: bool) -> str:
    if cell["mean"] is None:
        return "-"
    factor, digits = (100, 1) if percent else (1, 4)
    text = f"{factor * cell['mean']:.{digits}f}" if percent else f"{cell['mean']:.{digits + 1}g}"
    if cell["deviation"] is None:
        return text
    return (
        f"{text} +- {factor * cell['deviation']:.{digits if percent else 2}{'f' if percent else 'g'}} ({cell['runs']})"
    )


DEFAULT: Final = "(default)"
ABSENT: Final = "no {stage}"
NAMED_FIELDS: Final = 3
"""Fields that a variant's name may hold."""
NAMED_CHARACTERS: Final = 40
NAMED_RUNS: Final = 3
_NUMBER: Final = re.compile(r"(\d+(?:\.\d+)?)")


def configuration(report: Mapping[str, Any]) -> Json:
    """The fields of a report that decide its results, without seeds: what is equal stands in one column."""
    spec = redacted_document(report["config"])["spec"]
    for place in (spec, spec.get("train") or {}):
        place.pop("seed", None)
    spec.get("data", {}).pop("output", None)
    return spec


def varying_fields(configurations: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """The fields in which configurations differ, each with its value in all of them."""
    leaves = [_leaves(each) for each in configurations]
    paths = sorted({path for found in leaves for path in found})
    rows = [
        (path, [_value(path, found, each) for found, each in zip(leaves, configurations, strict=True)])
        for path in paths
    ]
    return [(path, values) for path, values in rows if len(set(values)) > 1]


def variant_names(names: Sequence[Sequence[str]], fields: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """A name for each column, no two alike.

    Args:
        names: of the runs of each column, which differ in their seeds.
        fields: see `varying_fields`.
    """
    whole = [_together(each) for each in names]
    found = [
        f"{name} ({told})" if (told := _told(fields, whole.index(name), place)) else name
        for place, name in enumerate(whole)
    ]
    return [
        f"{name} ({number})" if (number := found[: place + 1].count(name)) > 1 else name
        for place, name in enumerate(found)
    ]


def natural_order(name: str, fields: Mapping[str, Any]) -> tuple[Any, ...]:
    """A key by which runs stand as a person expects: `b2` before `b10`, a document before what was changed in it."""
    leaves = _leaves(fields)
    values = ((_parts(path), _parts(leaves[path])) for path in sorted(leaves))
    return _parts(name), len(leaves), tuple(values)


def _parts(text: str) -> tuple[tuple[float, str], ...]:
    """Text with its numbers as numbers."""
    return tuple((float(part), "") if _NUMBER.fullmatch(part) else (-1.0, part) for part in _NUMBER.split(text) if part)


def _leaves(value: Mapping[str, Any], path: str = "") -> dict[str, str]:
    found = dict[str, str]()
    for key, item in value.items():
        at = f"{path}.{key}" if path else str(key)
        found |= _leaves(item, at) if is_object(item) else {at: item if isinstance(item, str) else canonical_json(item)}
    return found


def _value(path: str, leaves: Mapping[str, str], fields: Mapping[str, Any]) -> str:
    stage = path.partition(".")[0]
    if stage in set(Stage) and stage not in fields:
        return ABSENT.format(stage=stage)
    return leaves.get(path, DEFAULT)


def _together(names: Sequence[str]) -> str:
    """One name for runs that differ in their seeds."""
    return first_of(list(dict.fromkeys(names)), NAMED_RUNS)


def _told(fields: Sequence[tuple[str, Sequence[str]]], first: int, place: int) -> str:
    """How a column differs from the first one of its name; nothing where it takes too many words."""
    own = [(path.rpartition(".")[2], values[place]) for path, values in fields if values[place] != values[first]]
    text = ", ".join(f"{field} {value.strip('()')}" for field, value in own)
    return text if len(own) <= NAMED_FIELDS and len(text) <= NAMED_CHARACTERS else ""
