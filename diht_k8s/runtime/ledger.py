"""Conservation: before a stage writes its marker, what came out is what went in.

An equation compares counts that were taken in different places: a Parquet footer, the headers of a tar, a listing, the
counters of a loop. Counts of one place would agree by construction. Pure.
"""

from __future__ import annotations

from typing import NamedTuple

from diht_k8s.api.errors import DataError


class Count(NamedTuple):
    """One side of an equation."""

    number: int
    of: str
    """what was counted, and where."""


def require_equal(where: str, remedy: str, first: Count, *others: Count) -> None:
    """Refuse counts that differ.

    Args:
        where: the file, shard or stage that they belong to.
        remedy: what to do if they differ.
        first: what the others are compared with.
        others: from other places.

    Raises:
        DataError: names the first two counts that differ, with both numbers.
    """
    for other in others:
        if other.number != first.number:
            raise DataError(f"{where}: {first.number} {first.of}, but {other.number} {other.of}: {remedy}")
