"""Figures, goals and table of the GPU benchmark. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from benchmarks.gpu.cases import LOSS, SIDES, Case
from benchmarks.gpu.process import DONE, Measured

BILLION: Final = 10**9
MFU_GOAL: Final = 45.0
"""percent, in bf16."""
RATIO_GOAL: Final = 1.2
"""samples/s over those of open_clip at its best settings."""
LOSS_GOAL: Final = 2.0
"""percent of a step for HN-NCE."""

Row = dict[str, Any]


def row_of(
    case: Case, measured: Measured, *, operations: float, peak: float | None, predicted: int | None = None
) -> Row:
    """All figures of a case.

    Args:
        case: which.
        measured: what became of it.
        operations: forward and backward of a pair at a full context, recomputation left out.
        peak: of a card, operations a second; None if unknown.
        predicted: bytes of a card's tensors at the peak, by our estimate; None if it has none.
    """
    rate = measured.samples_per_second
    row: Row = {"case": case.name, "size": case.size.name, "cards": case.cards, "side": case.side.name}
    row |= {"batch": case.batch, "outcome": measured.outcome, "seconds": measured.seconds}
    if measured.last_lines:
        row["last_lines"] = list(measured.last_lines)
    if measured.loss_ms is not None:
        row["loss_ms"] = measured.loss_ms
    if measured.peak_memory_mib is not None:
        row["peak_memory_mib"] = round(measured.peak_memory_mib)
    if predicted is not None:
        row["predicted_memory_mib"] = round(predicted / 2**20)
    if rate is not None:
        row["samples_per_second"] = round(rate, 1)
        row["step_ms"] = round(1000 * case.batch / rate, 2)
        row["gpu_hours_for_a_billion"] = round(case.cards * BILLION / rate / 3600, 1)
        row["loader_wait_percent"] = _rounded(measured.loader_wait_percent)
        row["mfu_percent"] = None if peak is None else round(100 * rate * operations / (case.cards * peak), 2)
    return row


def goals_of(rows: Sequence[Row]) -> list[Row]:
    """Each goal beside what was found, for each size and number of cards; `met` is None where it was not measured."""
    found: list[Row] = []
    for size, cards in dict.fromkeys((row["size"], row["cards"]) for row in rows):
        of_size = {row["side"]: row for row in rows if (row["size"], row["cards"]) == (size, cards)}
        place = {"size": size, "cards": cards}
        mfu = max(
            (row.get("mfu_percent") or 0.0 for name, row in of_size.items() if name.startswith("ours")), default=0.0
        )
        found.append({**place, "goal": "MFU, percent", **_compared(mfu or None, MFU_GOAL)})
        ours, theirs = _fastest(of_size, ("ours", "ours, compile")), _fastest(of_size, None)
        ratio = None if ours is None or theirs is None else round(ours / theirs, 3)
        found.append({**place, "goal": "times open_clip at its best", **_compared(ratio, RATIO_GOAL)})
        share = _loss_share(of_size)
        found.append({**place, "goal": "HN-NCE, percent of a step", **_compared(share, LOSS_GOAL, at_most=True)})
    return found


def _compared(found: float | None, target: float, *, at_most: bool = False) -> Row:
    met = None if found is None else found <= target if at_most else found >= target
    return {"target": target, "found": found, "met": met}


def _fastest(of_size: Mapping[str, Row], names: Sequence[str] | None) -> float | None:
    """The best rate among sides; without names among all of open_clip's."""
    wanted = names or [side.name for side in SIDES if side.is_reference]
    chosen = [of_size[name] for name in wanted if name in of_size]
    rates = [row["samples_per_second"] for row in chosen if "samples_per_second" in row]
    return max(rates, default=None)


def _loss_share(of_size: Mapping[str, Row]) -> float | None:
    alone, step = of_size.get(LOSS.name, {}).get("loss_ms"), of_size.get("ours, HN-NCE", {}).get("step_ms")
    return None if alone is None or step is None else round(100 * alone / step, 2)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def markdown(rows: Sequence[Row], goals: Sequence[Row], heading: str) -> str:
    """Both tables, ready for a page."""
    lines = [
        heading,
        "",
        "| model | cards | side | samples/s | step, ms | MFU | peak memory, MiB | predicted, MiB | loader wait | "
        "GPU hours for 1e9 | outcome |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        step = row.get("step_ms", row.get("loss_ms"))
        shown = [row["size"], row["cards"], row["side"], row.get("samples_per_second"), step]
        shown += [
            _percent(row.get("mfu_percent")),
            row.get("peak_memory_mib"),
            row.get("predicted_memory_mib"),
            _percent(row.get("loader_wait_percent")),
        ]
        lines.append(_line([*shown, row.get("gpu_hours_for_a_billion"), row["outcome"]]))
    lines += ["", "| model | cards | goal | target | found | met |", "|---|---|---|---|---|---|"]
    words = {True: "yes", False: "no", None: "not measured"}
    lines += [
        _line([*(goal[key] for key in ("size", "cards", "goal", "target", "found")), words[goal["met"]]])
        for goal in goals
    ]
    return "\n".join(lines) + "\n"


def failures(rows: Sequence[Row]) -> list[Row]:
    """The cases without figures."""
    return [row for row in rows if row["outcome"] != DONE]


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{value:g} %"


def _line(cells: Sequence[Any]) -> str:
    return (
        "| "
        + " | ".join(
            "-" if cell is None else f"{cell:,.1f}" if isinstance(cell, float) else str(cell) for cell in cells
        )
        + " |"
    )
