"""Names of a table's columns: each names one column, else a cell would hide another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from diht_k8s.api.errors import DataError
from diht_k8s.data.imports.tally import printable


def require_distinct(table: object, names: Iterable[str]) -> None:
    """Refuse a table in which a name stands twice.

    Args:
        table: for the message.
        names: of its columns.

    Raises:
        DataError: names the columns.
    """
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise DataError(f"{table} has two columns of one name ({printable(', '.join(repeated))}): rename one")
