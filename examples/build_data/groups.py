"""Groups of images that are variants of one another, and the split that keeps each group on one side.

Two images belong together when they look nearly the same, share the caption, or have the same base name: the name
without skin tone, number, gender, colour, direction and size. Union-find makes these pairs into groups.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from random import Random

from examples.build_data.candidates import Candidate, normalised, words_of

PEOPLE = "man woman person men women people boy girl male female lady guy child kid"
COLOURS = (
    "red orange yellow green blue purple violet brown black white gray grey pink cyan magenta gold golden silver "
    "turquoise seagreen lightblue dark light coloured colored color colour bw"
)
DIRECTIONS = "left right up down upper lower upwards downwards leftwards rightwards north south east west"
SIZES = "small medium large big tiny little mini huge heavy bold simple"
NUMBERS = "one two three four five six seven eight nine ten eleven twelve first second third last single double triple"
FILLERS = "the of and with in on for to by clipart clip art icon symbol sign flag svg theme skin tone vers version"
VARIANT_WORDS = frozenset(f"{PEOPLE} {COLOURS} {DIRECTIONS} {SIZES} {NUMBERS} {FILLERS}".split())
SAME_AS = {  # words that hide a gender or a number, and what is left without it
    **dict.fromkeys(PEOPLE.split(), "person"),
    **dict.fromkeys(("mermaid", "merman", "merperson"), "merperson"),
    **dict.fromkeys(("prince", "princess", "king", "queen"), "crown"),
    **dict.fromkeys(("grandmother", "grandfather", "older"), "old"),
    **dict.fromkeys(("mrs", "mx", "santa"), "claus"),
    **dict.fromkeys(("bride", "groom"), "wedding"),
    "policeman": "police",
    "fireman": "firefighter",
    "thirty": "o'clock",
}


def base_name(name: str) -> str:
    """What is left of a name without the words that tell variants apart, as sorted words.

    A name that consists of such words alone ("red 3") keeps all of them but the numbers; a name of numbers is empty.
    """
    words = ["".join(c for c in word if not c.isdigit()) for word in words_of(name)]
    words = [SAME_AS.get(word, word) for word in words if word]
    kept = [word for word in words if word not in VARIANT_WORDS and len(word) > 1]
    stems = {word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word for word in kept}
    return " ".join(sorted(stems or set(words)))


class UnionFind:
    """Disjoint sets over 0..size-1; a set's root is its smallest member, so the result depends on no order."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))

    def find(self, item: int) -> int:
        """Smallest member of the item's set."""
        root = item
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[item] != root:
            self._parent[item], item = root, self._parent[item]
        return root

    def union(self, first: int, second: int) -> None:
        """Make one set of the two items' sets."""
        low, high = sorted((self.find(first), self.find(second)))
        self._parent[high] = low


def group_candidates(candidates: Sequence[Candidate], similar: Iterable[tuple[int, int]]) -> list[int]:
    """Group of each candidate: the index of the group's first member.

    A boilerplate caption joins nothing: it would make one group of a whole collection.

    Args:
        candidates: images with captions and names.
        similar: pairs of indices of images that look nearly the same.
    """
    sets = UnionFind(len(candidates))
    for first, second in similar:
        sets.union(first, second)
    seen: dict[str, int] = {}
    for index, candidate in enumerate(candidates):
        keys = [] if candidate.boilerplate else [f"caption {normalised(candidate.caption)}"]
        keys += [f"name {base}" for base in map(base_name, candidate.names) if base]
        for key in keys:
            sets.union(index, seen.setdefault(key, index))
    return [sets.find(index) for index in range(len(candidates))]


def choose_gallery(
    candidates: Sequence[Candidate],
    groups: Sequence[int],
    *,
    number: int,
    per_class: int,
    max_group: int,
    class_share: float,
    rng: Random,
) -> list[int]:
    """Indices of a gallery: one image from each chosen group, in random order.

    First up to `per_class` groups of each zero-shot class are drawn, at most `class_share` of those it has, then groups
    without a class. Only captions that describe the image are eligible, and only groups of at most `max_group`
    members, because the other members of a chosen group are lost to training.

    Raises:
        ValueError: fewer than `number` groups are eligible.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        members[group].append(index)
    eligible: list[int] = []
    for group in sorted(members):
        good = [i for i in members[group] if candidates[i].clean]
        if good and len(members[group]) <= max_group:
            eligible.append(rng.choice(good))
    rng.shuffle(eligible)
    by_class: dict[str, list[int]] = defaultdict(list)
    for index in eligible:
        by_class[candidates[index].class_name or ""].append(index)
    others = by_class.pop("", [])
    chosen = [
        i for name in sorted(by_class) for i in by_class[name][: min(per_class, int(class_share * len(by_class[name])))]
    ]
    chosen = (chosen + others)[:number]
    if len(chosen) < number:
        raise ValueError(f"only {len(chosen)} groups can be held out, {number} are wanted: lower the number")
    rng.shuffle(chosen)
    return chosen
