"""Hints for sources without images or captions: the suffixes that are there, and the usual mistakes.

In: the samples of a shard. Out: counts for the header of its scores, and one sentence for the user.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from diht_k8s.data.shards.samples import IMAGE_SUFFIXES, Sample, storable

MISSING: Final = ("picture_missing", "caption_missing")
MAX_SUFFIXES: Final = 40
"""Number of the most frequent suffixes stored per shard."""
SHOWN_SUFFIXES: Final = 8
MAX_KEYS: Final = 200_000
"""Keys of a shard that are compared with later ones."""
UNDECODED: Final = ("gif", "bmp", "tif", "tiff", "ppm", "heic", "avif", "svg")
"""Suffixes of images that no stage decodes."""
CAPTIONS: Final = ("caption", "captions", "text", "title", "alt")
"""Suffixes under which others store captions."""
USUAL: Final = (*IMAGE_SUFFIXES, "txt", "json")


@dataclass(kw_only=True)
class LayoutHints:
    """Counts over the samples without image or caption; `merge` adds two of them."""

    samples: int = 0
    suffixes: Counter[str] = field(default_factory=Counter)
    dotted: int = 0
    """samples with a suffix such as `v2.jpg`, left by a base name with dots."""
    split: int = 0
    """keys with their image in one place and their caption in another."""
    _seen: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    def add(self, sample: Sample) -> None:
        """Count a sample of one shard, in order."""
        if sample.problem not in MISSING or not sample.members:  # a row of a table has none
            return
        self.samples += 1
        self.suffixes.update(storable(suffix) for suffix in sample.members)
        self.dotted += any(_is_dotted(suffix) for suffix in sample.members)
        earlier = self._seen.get(sample.key)
        if earlier is None and len(self._seen) < MAX_KEYS:
            self._seen[sample.key] = sample.problem
        self.split += earlier is not None and earlier != sample.problem

    def merge(self, other: LayoutHints) -> None:
        """Add the counts of another shard."""
        self.samples += other.samples
        self.suffixes.update(other.suffixes)
        self.dotted += other.dotted
        self.split += other.split

    def sentence(self, source: str) -> str:
        """The suffixes found and the advice for the source of these samples; empty where nothing is missing."""
        if not self.samples:
            return ""
        shown = sorted(self.suffixes.items(), key=lambda item: (-item[1], item[0]))
        found = ", ".join(f"{suffix} {count}" for suffix, count in shown[:SHOWN_SUFFIXES])
        head = f"source {source}: {self.samples} samples have no image or no caption; the suffixes found are {found}"
        if self.split:
            return (
                f"{head}; {self.split} keys have image and caption in different places: all members of a key must "
                "follow each other, so pack the tar again in the order of the names (tar --sort=name)"
            )
        if self.dotted:
            return (
                f"{head}; {self.dotted} samples have dots in their base names, and a key ends at the first dot: "
                "rename the files, for example a.b.jpg to a_b.jpg"
            )
        if undecoded := [suffix for suffix in UNDECODED if suffix in self.suffixes]:
            return (
                f"{head}; images of the type {undecoded[0]} are not read: convert them to PNG, or unpack the shards and let "
                "diht import do that"
            )
        if named := [suffix for suffix in CAPTIONS if suffix in self.suffixes]:
            return f"{head}; set data.sources[].captionKey: {named[0]}"
        return f"{head}: if they name images or captions, set data.sources[].imageKey or captionKey"

    def to_json(self) -> dict[str, Any]:
        """The counts as stored in the header of a scores file."""
        most = sorted(self.suffixes.items(), key=lambda item: (-item[1], item[0]))[:MAX_SUFFIXES]
        return {"samples": self.samples, "suffixes": dict(most), "dotted": self.dotted, "split": self.split}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read the counts from a header."""
        return cls(
            samples=data["samples"], suffixes=Counter(data["suffixes"]), dotted=data["dotted"], split=data["split"]
        )


def _is_dotted(suffix: str) -> bool:
    return "." in suffix and suffix.rpartition(".")[2] in USUAL
