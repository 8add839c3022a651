"""What a message about an unknown name suggests: the nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

CUTOFF: Final = 0.6
"""Least similarity of a name that is suggested (`difflib`'s ratio, 0 to 1)."""


def nearest(name: str, known: Iterable[str], *, cutoff: float = CUTOFF) -> str | None:
    """The known name that is most similar to another; None if none is near."""
    return next(iter(difflib.get_close_matches(name, list(known), 1, cutoff)), None)


def suggestion(name: str, known: Iterable[str], otherwise: str = "", *, cutoff: float = CUTOFF) -> str:
    """`did you mean X?` for the nearest known name, and `otherwise` if none is near."""
    near = nearest(name, known, cutoff=cutoff)
    return f"did you mean {near}?" if near else otherwise
