"""Profile of a data set: number of pairs, sizes of images, captions, and the pairs that pass the filter's caption
rules.

It samples at most `MAX_PROFILED` pairs, of shards that are spread evenly over all; counts are then estimates.

Of these pairs a split by groups is held out: pairs that share their image or their caption are on one side together.
Out: HELD/00000.tar with one pair of every second chosen group, which the evaluation alone reads, HELD/development.tar
with those of the others, which settings and weights are chosen on, and HELD/exclude.txt, which keeps all pairs of these
groups (and every other copy of their images) out of the training.
"""

from __future__ import annotations

import hashlib
import io
import json
import statistics
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from PIL import Image

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.api.filter import Filter
from diht_k8s.api.layout import MARKER, join
from diht_k8s.data.shards.images import BadImageError, decode
from diht_k8s.data.shards.pairs import with_usual_names
from diht_k8s.data.shards.samples import IMAGE_SUFFIXES, Sample, read_samples
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples
from diht_k8s.stages.filter.captions.language import is_english
from diht_k8s.stages.filter.fingerprints import gallery_of
from diht_k8s.stages.filter.rules import caption_reason, new_row
from diht_k8s.stages.filter.scores import Row
from diht_k8s.stages.filter.summary import CAPTIONS, LayoutHints
from diht_k8s.stages.label.caption_concepts import KeptCaptions
from diht_k8s.stages.label.vocabulary import ConceptCounts

if TYPE_CHECKING:
    from diht_k8s.stages.filter.captions.parser import CaptionParser

MAX_PROFILED: Final = 5000
"""Parsing their captions takes some seconds."""


@dataclass(frozen=True)
class ProfiledPair:
    """A usable pair of the profile, without its image."""

    shard: int
    """place of its shard in the list."""
    number: int
    """place in the shard."""
    uid: str
    image_sha256: str
    row: Row
    """the parser's scores of the caption."""
    caption: str


@dataclass(frozen=True)
class DatasetProfile:
    """Figures of some shards, and the sampled pairs."""

    uris: list[str]
    total: int
    """number of samples in all shards."""
    counted: bool
    """whether `total` is a count; otherwise it is an estimate from the shards that were read."""
    sampled: int
    """number of samples that were read for the profile, bad ones included."""
    pairs: list[ProfiledPair]
    bad: dict[str, int]
    """reason -> number, of the sampled ones."""
    sizes: list[tuple[int, int]] = field(repr=False)
    caption_key: str | None = None
    """member that holds the captions, where it has no usual name."""

    @property
    def usable(self) -> int:
        """Estimated number of usable pairs in all shards."""
        return round(self.total * len(self.pairs) / max(1, self.sampled))

    def english(self) -> float:
        """Share of the captions without a sign of another language."""
        return sum(is_english(each.caption) for each in self.pairs) / max(1, len(self.pairs))

    def words(self) -> float:
        """Words of the median caption."""
        return statistics.median(len(each.caption.split()) for each in self.pairs)

    def median_size(self) -> tuple[int, int]:
        """Width and height in pixels, each the median."""
        widths, heights = zip(*self.sizes, strict=True)
        return round(statistics.median(widths)), round(statistics.median(heights))

    def kept(self, rules: Filter, without: Iterable[str] = ()) -> list[ProfiledPair]:
        """The samples whose captions pass the rules C and A, but for some uids."""
        left_out = set(without)
        return [each for each in self.pairs if each.uid not in left_out and not caption_reason(each.row, rules)]


def concept_counts(kept: Sequence[ProfiledPair]) -> ConceptCounts:
    """Number of captions in which each concept occurs."""
    counts = ConceptCounts()
    counts.add(
        KeptCaptions(
            uids=[each.uid for each in kept],
            objects=[list(dict.fromkeys(each.row.objects)) for each in kept],
            attributes=[list(dict.fromkeys(name for _, name in each.row.attributes)) for each in kept],
        )
    )
    return counts


def profile_dataset(
    storage: Storage, uris: Sequence[str], parser: CaptionParser, advance: Callable[[], object]
) -> DatasetProfile:
    """The profile of some shards, from samples of some of them.

    Args:
        storage: where the shards are.
        uris: the shards.
        parser: of captions.
        advance: called after each sample.

    Raises:
        DataError: a shard that is read is damaged or empty, or none of its samples can be used.
    """
    found = _Sampled()
    per_shard: list[int] = []
    for place in bit_reversed_order(len(uris)):
        if found.sampled >= MAX_PROFILED:
            break
        count = 0
        for number, sample in enumerate(read_samples(storage, uris[place])):
            count += 1
            if found.sampled < MAX_PROFILED:
                found.add(place, number, sample)
                advance()
        per_shard.append(count)
    if not found.usable:
        raise DataError(found.nothing_usable(uris[0]))
    total, counted = _total(storage, uris, per_shard)
    graphs = parser.parse([sample.caption for _, _, sample, _ in found.usable])
    pairs: list[ProfiledPair] = []
    for (place, number, sample, digest), graph in zip(found.usable, graphs, strict=True):
        row = new_row("", sample)
        row.describe(graph, "profile")
        pairs.append(ProfiledPair(place, number, sample.uid, digest, row, sample.caption))
    return DatasetProfile(
        [*uris], total, counted, found.sampled, pairs, dict(found.bad), found.sizes, found.caption_key
    )


def bit_reversed_order(shards: int) -> list[int]:
    """All indices by their bits reversed (van der Corput's sequence): any beginning of the list is spread evenly."""
    bits = max(1, (shards - 1).bit_length())
    return sorted(range(shards), key=lambda place: int(f"{place:0{bits}b}"[::-1], 2))


def _total(storage: Storage, uris: Sequence[str], per_shard: Sequence[int]) -> tuple[int, bool]:
    """Samples of all shards: counted, from the marker of the import that wrote them, or estimated."""
    if len(per_shard) == len(uris):
        return sum(per_shard), True
    marker = join(uris[0].rpartition("/")[0] or ".", MARKER)
    if storage.exists(marker):
        shards = json.loads(storage.read_bytes(marker)).get("shards", [])
        if len(shards) == len(uris):
            return sum(shard.get("samples", 0) for shard in shards), True
    return round(len(uris) * statistics.mean(per_shard)), False


@dataclass
class _Sampled:
    """The samples read so far, without their images."""

    sampled: int = 0
    usable: list[tuple[int, int, Sample, str]] = field(default_factory=list)
    bad: Counter[str] = field(default_factory=Counter)
    hints: LayoutHints = field(default_factory=LayoutHints)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    caption_key: str | None = None

    def add(self, shard: int, number: int, sample: Sample) -> None:
        """Take a sample."""
        self.sampled += 1
        self.hints.add(sample)
        if sample.problem == "caption_missing" and self.caption_key is None:
            self.caption_key = next((suffix for suffix in CAPTIONS if suffix in sample.members), None)
        sample = with_usual_names(sample, None, self.caption_key)
        size = None if sample.problem is not None else _size(sample.image)
        if size is None:
            self.bad[sample.problem or "picture_unreadable"] += 1
            return
        self.sizes.append(size)
        digest = hashlib.sha256(sample.image).hexdigest()
        light = Sample(sample.key, {}, sample.uid, sample.caption, sample.meta)
        self.usable.append((shard, number, light, digest))

    def nothing_usable(self, uri: str) -> str:
        """The error where no sample is usable."""
        counts = ", ".join(f"{count} {reason}" for reason, count in self.bad.most_common())
        hint = self.hints.sentence("data").partition(": ")[2] or "check how they were written"
        return f"none of the first {self.sampled} samples of {uri} can be used ({counts}): {hint}"


def _size(data: bytes) -> tuple[int, int] | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(data)).size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


SHARD: Final = "00000.tar"
DEVELOPMENT: Final = "development.tar"
EXCLUDE: Final = "exclude.txt"
SHARE: Final = 10
"""One pair in ten is held out, and one more is for development."""
LARGEST_GROUP: Final = 10
"""A caption that more pairs share ("image") stays in the training."""
COMPARED: Final = 500
"""Training images that are compared with the held-out ones."""


@dataclass(frozen=True)
class HeldOut:
    """The groups that were chosen, and what is written of them."""

    pairs: list[ProfiledPair]
    """one of each group, in the order of the shards."""
    excluded: list[str]
    """uids of all pairs of the groups."""
    near: float
    """share of the training images that are near-duplicates of a held-out one."""
    members: list[tuple[str, dict[str, bytes]]] = field(default_factory=list[tuple[str, dict[str, bytes]]])
    """key and files of each pair."""

    @property
    def development(self) -> int:
        """Number of the pairs for development: every second one."""
        return len(self.pairs) // 2


def duplicate_groups(pairs: Sequence[ProfiledPair]) -> list[list[ProfiledPair]]:
    """Pairs that share their image or their caption, directly or through others."""
    parent = list(range(len(pairs)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    first: dict[tuple[str, str], int] = {}
    for place, each in enumerate(pairs):
        for key in (("image", each.image_sha256), ("caption", each.caption.casefold())):
            parent[root(place)] = root(first.setdefault(key, place))
    found: dict[int, list[ProfiledPair]] = defaultdict(list)
    for place, each in enumerate(pairs):
        found[root(place)].append(each)
    return list(found.values())


def choose_groups(profile: DatasetProfile, seed: int) -> tuple[list[ProfiledPair], list[str]]:
    """One pair of each chosen group, and the uids of all pairs of these groups.

    Args:
        profile: of the shards.
        seed: of the choice.
    """
    wanted = max(1, 2 * (len(profile.pairs) // SHARE))
    small = [group for group in duplicate_groups(profile.pairs) if len(group) <= LARGEST_GROUP]
    small.sort(key=lambda group: hashlib.sha256(f"{seed} {group[0].uid}".encode()).digest())
    chosen = small[:wanted]
    pairs = sorted((group[0] for group in chosen), key=lambda each: (each.shard, each.number))
    return pairs, [each.uid for group in chosen for each in group]


def hold_out(storage: Storage, profile: DatasetProfile, *, seed: int = 0) -> HeldOut:
    """Choose the groups and read them; the same data and seed give the same ones.

    Args:
        storage: of the shards.
        profile: of the shards.
        seed: of the choice.
    """
    pairs, excluded = choose_groups(profile, seed)
    members = [(f"h{number:05d}", found) for number, found in enumerate(_members(storage, profile, pairs))]
    near = _near(storage, profile, [_image(found) for _, found in members], set(excluded))
    return HeldOut(pairs, excluded, near, members)


def write_held_out(storage: Storage, held: HeldOut, folder: str, *, replace: bool) -> None:
    """Write the groups.

    Args:
        storage: of the folder.
        held: the groups.
        folder: for the shard and the list.
        replace: write over the groups of other data.

    Raises:
        UserError: groups of other data are there, which another run document may name.
    """
    images = [hashlib.sha256(_image(found)).hexdigest() for _, found in held.members]
    lines = ["# held out of the training: uids, and SHA-256 of images", *sorted({*held.excluded, *images})]
    content, place = ("\n".join(lines) + "\n").encode(), join(folder, EXCLUDE)
    if not replace and storage.exists(place) and storage.read_bytes(place) != content:
        raise UserError(
            f"{folder} holds pairs of other data, which another run document may name: choose another --name, or "
            "--replace them"
        )
    write_samples(storage, join(folder, SHARD), held.members[::2])
    write_samples(storage, join(folder, DEVELOPMENT), held.members[1::2])
    storage.write_bytes(place, content)


def _members(storage: Storage, profile: DatasetProfile, pairs: Sequence[ProfiledPair]) -> Iterator[dict[str, bytes]]:
    """The members of each pair; the caption is in the .txt, wherever it was before."""
    by_shard: dict[int, set[int]] = defaultdict(set)
    for each in pairs:
        by_shard[each.shard].add(each.number)
    for shard, numbers in sorted(by_shard.items()):
        for number, sample in enumerate(read_samples(storage, profile.uris[shard])):
            if number in numbers:
                found = with_usual_names(sample, None, profile.caption_key)
                yield {**found.members, "txt": found.caption.encode()}
            if number == max(numbers):
                break


def _image(members: Mapping[str, bytes]) -> bytes:
    return next(members[suffix] for suffix in IMAGE_SUFFIXES if suffix in members)


def _near(storage: Storage, profile: DatasetProfile, held: Sequence[bytes], excluded: set[str]) -> float:
    """Share of some training images that the filter would take for copies of held-out ones."""
    gallery, compared, found = gallery_of(held), 0, 0
    others = {(each.shard, each.number) for each in profile.pairs if each.uid not in excluded}
    for shard in sorted({place for place, _ in others}):
        for number, sample in enumerate(read_samples(storage, profile.uris[shard])):
            if compared == COMPARED:
                return found / compared
            if (shard, number) in others:
                try:
                    found += gallery.holds(decode(sample.image))
                except BadImageError:
                    continue
                compared += 1
    return found / max(1, compared)
