"""A held-out split by groups: pairs that share their image or their caption are on one side together.

Out: HELD/00000.tar with one pair of each chosen group, and HELD/exclude.txt, which keeps all pairs of these groups (and
every other copy of their images) out of the training.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from diht_k8s.api.errors import UserError
from diht_k8s.api.layout import join
from diht_k8s.data.shards.images import BadImageError, decode
from diht_k8s.data.shards.pairs import with_usual_names
from diht_k8s.data.shards.samples import IMAGE_SUFFIXES, read_samples
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples
from diht_k8s.inspection.dataset_profile import DatasetProfile, ProfiledPair
from diht_k8s.stages.filter.fingerprints import gallery_of

SHARD: Final = "00000.tar"
EXCLUDE: Final = "exclude.txt"
SHARE: Final = 10
"""One pair in ten is held out."""
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
    wanted = max(1, len(profile.pairs) // SHARE)
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
    write_samples(storage, join(folder, SHARD), held.members)
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
