"""`report.json` of the filter, from the summed counts. Pure."""

from __future__ import annotations

from typing import Any, Final

from diht_k8s.api.filter import Filter
from diht_k8s.stages.filter.summary import NAME_KINDS, Summary, top_names

SHOWN_NAMES: Final = 50
STEPS: Final = (
    "exclude",
    "language",
    "metadata",
    "objects",
    "complexity",
    "action",
    "size",
    "benchmark",
    "clip_score",
    "text",
    "duplicate",
    "clip_share",
)
"""Reasons in the order in which the rules are applied."""
ALWAYS_SHOWN: Final = frozenset(("exclude", "language", "complexity", "action", "text"))
"""The others are shown only if they dropped a sample."""
THRESHOLDS: Final = ((0, 0), (1, 0), (2, 0), (3, 0), (0, 1), (1, 1), (2, 1), (3, 1))


def report(summary: Summary, rules: Filter, header: dict[str, Any]) -> dict[str, Any]:
    """Build the report.

    Args:
        summary: counts over all shards.
        rules: the run's thresholds.
        header: schema_version, config_sha256 and inputs.
    """
    return {
        **header,
        "counts": summary.counts(),
        "funnel": funnel(summary),
        "thresholds": {"minComplexity": rules.min_complexity, "minActions": rules.min_actions},
        "table": [_thresholds(summary, complexity, actions) for complexity, actions in THRESHOLDS],
        "complexity": _histogram(summary, 0),
        "actions": _histogram(summary, 1),
        "names": {kind: top_names(summary.names[kind], SHOWN_NAMES) for kind in NAME_KINDS},
        "text_spotting": text_spotting(summary),
        "junk": None if rules.junk_field is None else summary.junk.figures(rules.junk_field, STEPS),
        "examples": {
            reason: [{name: value for name, value in example.items() if name != "rank"} for example in examples]
            for reason, examples in sorted(summary.examples.items())
        },
    }


def funnel(summary: Summary) -> list[dict[str, Any]]:
    """Samples left after each step, in the order of the rules; the last entry is the number kept."""
    steps = [("input", 0), ("readable", summary.bad.total())]
    steps += [
        (reason, summary.dropped[reason]) for reason in STEPS if reason in ALWAYS_SHOWN or summary.dropped[reason]
    ]
    left, entries = summary.input, []
    for name, dropped in steps:
        left -= dropped
        entries.append({"step": name, "samples": left, "dropped": dropped})
    return entries


def _thresholds(summary: Summary, min_complexity: int, min_actions: int) -> dict[str, Any]:
    """Number of samples of filtered sources that would pass C and A, and T if all their images were read.

    What `language` or `objects` drops is not among them; what another rule drops may be.
    """
    chosen = [
        (complexity, actions, cell)
        for (complexity, actions), cell in summary.cells.items()
        if complexity >= min_complexity and actions >= min_actions
    ]
    passed, unread, matched = (sum(cell[index] for _, _, cell in chosen) for index in range(3))
    after_complexity = sum(cell[0] for (complexity, _), cell in summary.cells.items() if complexity >= min_complexity)
    return {
        "minComplexity": min_complexity,
        "minActions": min_actions,
        "scored": sum(cell[0] for cell in summary.cells.values()),
        "complexity": after_complexity,
        "action": passed,
        "text": None if unread else passed - matched,
    }


def _histogram(summary: Summary, axis: int) -> list[int]:
    """Number of samples by complexity (axis 0) or number of actions (axis 1); the last bin holds the rest."""
    bins = [0] * (max((key[axis] for key in summary.cells), default=0) + 1)
    for key, cell in summary.cells.items():
        bins[key[axis]] += cell[0]
    return bins


def text_spotting(summary: Summary) -> dict[str, Any] | None:
    """Recall and precision, if the input records which images had words of their caption painted in; else None."""
    if not summary.painted:
        return None
    found, missed = summary.painted["painted_found"], summary.painted["painted_missed"]
    wrong = summary.painted["clean_dropped"]
    return {
        **dict(sorted(summary.painted.items())),
        "recall": round(found / (found + missed), 4) if found + missed else None,
        "precision": round(found / (found + wrong), 4) if found + wrong else None,
    }
