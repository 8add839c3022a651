"""What the second protocol's seven comparisons decide (PROTOCOL-2.md, Test), in sentences. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from benchmarks.ablation.plan import PARTS
from benchmarks.ablation.table import Cell, Pair

DISTILLATION: Final = ("plain", "distill_shuffled")
TEACHER: Final = ("distill_captions", "distill_untrained")
"""Controls that `distill` has to be clearly above, for either claim; the second one needs all four."""


def verdicts(tested: Mapping[Pair, Cell]) -> str:
    """A list of five sentences.

    Args:
        tested: the seven pairs with their figure on the primary measure; a control's name begins with its arm's.
    """
    controls = {
        str(against).partition(",")[0]: (str(against), cell)
        for (arm, against), cell in tested.items()
        if arm == "distill"
    }
    if controls.keys() != {*DISTILLATION, *TEACHER} or not tested.keys() >= PARTS.keys():
        raise ValueError(f"the seven comparisons are other ones than {', '.join(map(str, tested))}")
    sentences = [
        _claim("Distillation", [controls[name] for name in DISTILLATION]),
        _claim("The teacher's knowledge", [controls[name] for name in (*DISTILLATION, *TEACHER)]),
        *(_part(what, pair, tested[pair]) for pair, what in PARTS.items()),
    ]
    return "Verdicts of the protocol:\n\n" + "\n".join(f"- {sentence}" for sentence in sentences)


def _claim(what: str, controls: Sequence[tuple[str, Cell]]) -> str:
    """Helps only if `distill` is clearly above all of them."""
    missed = [each for each in controls if _relation(each[1]) != "clearly above"]
    if not missed:
        return f"{what} helps: `distill` is clearly above {_listed(controls)}."
    told = "; ".join(f"{_relation(cell)} {_listed([(name, cell)])}" for name, cell in missed)
    return f"{what} is not shown to help: `distill` is {told}."


def _part(what: str, pair: Pair, cell: Cell) -> str:
    says = {"clearly above": "help", "clearly below": "harm", "not clearly different from": "are not shown to help"}
    verb = says[_relation(cell)]
    if not what.startswith("Hard"):
        verb = {"help": "helps", "harm": "harms"}.get(verb, "is not shown to help")
    return f"{what} {verb}: `{pair[0]}` is {_relation(cell)} {_listed([(str(pair[1]), cell)])}."


def _relation(cell: Cell) -> str:
    assert cell.difference is not None, "each of the seven has an arm against it"
    if not cell.decided:
        return "not clearly different from"
    return "clearly above" if cell.difference.value > 0 else "clearly below"


def _listed(controls: Sequence[tuple[str, Cell]]) -> str:
    return ", ".join(
        f"`{name}` ({100 * each.value:+.1f} points, {100 * each.low:+.1f} to {100 * each.high:+.1f})"
        for name, cell in controls
        if (each := cell.difference) is not None
    )
