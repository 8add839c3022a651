"""Kubernetes' quantities in run documents."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import Field, StringConstraints, ValidatorFunctionWrapHandler, WrapValidator

QUANTITY_PATTERN: Final = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][0-9]+)?$"
"""Kubernetes' quantities that a pod may ask for: `8`, `500m`, `1.5`, `64Gi`, `1e3`."""
MAX_CHARACTERS: Final = 32


def quantity_problem(given: Any) -> str | None:
    """What is wrong with a value as a quantity; None where nothing is."""
    text = type(given) is str and len(given) <= MAX_CHARACTERS and re.fullmatch(QUANTITY_PATTERN, given)
    if text or (type(given) is int and 0 <= given <= 2**62):
        return None
    return f"invalid quantity {given!r}: write for example 8, 500m or 64Gi"


def _quantity(given: Any, handler: ValidatorFunctionWrapHandler) -> str | int:
    """One problem in place of one for each branch of the union."""
    if (problem := quantity_problem(given)) is not None:
        raise ValueError(problem)
    return handler(given)


Size = Annotated[str, StringConstraints(pattern=QUANTITY_PATTERN, max_length=MAX_CHARACTERS)]
Quantity = Annotated[Size | Annotated[int, Field(ge=0, le=2**62)], WrapValidator(_quantity)]
_UNITS: Final = {
    "": 1,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "P": 10**15,
    "E": 10**18,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
    "Pi": 2**50,
    "Ei": 2**60,
    "m": 1e-3,
}


def number_of(value: str | int) -> float:
    """A quantity as a number: `500m` is 0.5, `1Ki` 1,024.

    Raises:
        ValueError: it is invalid.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?(?:[eE][0-9]+)?)([A-Za-z]*)", str(value))
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"invalid quantity {value}: write for example 8, 500m or 64Gi")
    return float(match[1]) * _UNITS[match[2]]
