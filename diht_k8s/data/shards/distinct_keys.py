"""Distinct keys for the samples of a shard.

Raw shards may repeat keys, which readers of tars take for one sample, refuse (`webdataset`: "duplicate file name") or, when
files are unpacked, write over one another. Only names change: uids, labels and keep lists do not go by them.
"""

from __future__ import annotations

from dataclasses import replace

from diht_k8s.data.shards.samples import Sample
from diht_k8s.data.shards.tar_writer import fits_tar


class DistinctKeys:
    """The keys of a shard so far."""

    def __init__(self) -> None:
        self._taken = dict[str, int]()
        """key -> number to try next for a sample that has it, too."""

    def named(self, sample: Sample) -> Sample:
        """The next sample; if its key has come before, under the first of KEY-2, KEY-3, ... that has not.

        A key that a tar cannot hold with a number behind it gives up its last characters for it.
        """
        found = sample
        while found.key in self._taken:
            ending = f"-{self._taken[sample.key]}"
            self._taken[sample.key] += 1
            found = replace(sample, key=sample.key + ending)
            if not fits_tar(found):
                found = replace(sample, key=sample.key[: -len(ending)] + ending)
        self._taken[found.key] = 2
        return found
