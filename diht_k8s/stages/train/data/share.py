"""A rank's rows of a global batch, for any number of ranks. Pure.

Every rank holds ceil(B / W) rows of a batch of B pairs over W ranks, so that all have tensors of one shape and pass as many
micro-batches. The rows are cut contiguously: what the ranks hold beyond the B pairs are the last rows of the last ranks, and
of all ranks' rows in rank order the pairs are the first B. These surplus rows hold no pair and count nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BatchShare:
    """One rank's rows."""

    batch_size: int
    """pairs of the global batch."""
    rank: int
    world: int
    """number of ranks."""

    @property
    def rows(self) -> int:
        """Rows that each rank holds, surplus ones included."""
        return -(-self.batch_size // self.world)

    @property
    def first(self) -> int:
        """Number of this rank's first row in the global batch."""
        return self.rank * self.rows

    @property
    def pairs(self) -> int:
        """Pairs of this rank; the last ranks may have fewer than others, or none."""
        return max(0, min(self.rows, self.batch_size - self.first))

    @property
    def surplus(self) -> int:
        """Rows of this rank that hold no pair."""
        return self.rows - self.pairs

    def part(self, number: int, parts: int) -> range:
        """The rows of one of several readers of this rank's pairs, as equal as they can be.

        Args:
            number: which reader.
            parts: number of readers.
        """
        begin, end = (self.pairs * place // parts for place in (number, number + 1))
        return range(self.first + begin, self.first + end)
