"""Compares runs: a page and a table from several `report.json`. Runs that differ only in seed share a column. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from diht_k8s.api.documents import canonical_json
from diht_k8s.api.hashing import differences
from diht_k8s.api.redaction import redacted_document
from diht_k8s.recipe.report.overview import headlines
from diht_k8s.recipe.report.page import environment

Json = dict[str, Any]


def comparison(reports: Sequence[Mapping[str, Any]]) -> Json:
    """Columns (runs of one configuration), rows (figures) and differences from the first column.

    Args:
        reports: contents of `report.json`, in order.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for report in reports:
        groups.setdefault(canonical_json(_configuration(report)), []).append(report)
    columns = list(groups.values())
    rows: dict[tuple[str, str], Json] = {}
    for number, group in enumerate(columns):
        for report in group:
            for key, value, percent in _figures(report):
                row = rows.setdefault(key, {"name": key[0], "figure": key[1], "percent": percent, "values": {}})
                row["values"].setdefault(number, []).append(value)
    for row in rows.values():
        row["cells"] = [_cell(row["values"].get(number, [])) for number in range(len(columns))]
        del row["values"]
    first = _configuration(columns[0][0])
    return {
        "columns": [_column(group) for group in columns],
        "rows": list(rows.values()),
        "differences": [differences(first, _configuration(group[0])) for group in columns[1:]],
    }


def comparison_page(compared: Mapping[str, Any]) -> str:
    """The page: one file without a script."""
    return environment().get_template("comparison.html.jinja").render(**compared)


def comparison_text(compared: Mapping[str, Any]) -> str:
    """The table for a terminal."""
    names = [column["name"] for column in compared["columns"]]
    lines = [["", *names]]
    for row in compared["rows"]:
        lines.append([f"{row['name']} {row['figure']}", *(_shown(cell, row["percent"]) for cell in row["cells"])])
    widths = [max(len(line[column]) for line in lines) for column in range(len(names) + 1)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _configuration(report: Mapping[str, Any]) -> Json:
    """The configuration without name, seed and location of the output."""
    spec = redacted_document(report["config"])["spec"]  # earlier versions wrote literal values
    spec.pop("seed", None)
    spec.get("data", {}).pop("output", None)
    return spec


def _column(group: Sequence[Mapping[str, Any]]) -> Json:
    names = list(dict.fromkeys(report["run"]["name"] for report in group))
    seeds = [report["run"]["seed"] for report in group]
    return {"name": ", ".join(names), "runs": len(group), "seeds": ", ".join(map(str, seeds))}


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
