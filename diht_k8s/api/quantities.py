"""Kubernetes' quantities in run documents."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import Field, StringConstraints, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

QUANTITY_PATTERN: Final = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][0-9]+)?$"
"""Kubernetes' quantities that a pod may ask for: `8`, `500m`, `1.5`, `64Gi`, `1e3`."""


def _quantity(given: Any, handler: ValidatorFunctionWrapHandler) -> str | int:
    """One problem in place of one for each branch of the union."""
    try:
        return handler(given)
    except ValidationError as error:
        raise ValueError(f"invalid quantity {given!r}: write for example 8, 500m or 64Gi") from error


Size = Annotated[str, StringConstraints(pattern=QUANTITY_PATTERN, max_length=32)]
Quantity = Annotated[Size | Annotated[int, Field(ge=0, le=2**62)], WrapValidator(_quantity)]
