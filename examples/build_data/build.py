"""The recipe of the data set: candidates -> images -> groups -> splits -> junk on top -> pairs, with all counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np

from examples.build_data import emoji, groups, openclipart, paint, pictures
from examples.build_data.candidates import Candidate, Tally, vocabulary_of
from examples.build_data.items import Item, fields_of
from examples.build_data.junk import junk_pairs
from examples.build_data.shards import Pair

SEED = 20230105
HELD_OUT_SEED = 20261129
GALLERY = 500
PER_CLASS = 30
MAX_GROUP = 12
DEVELOPMENT_SHARE = 0.6
HELD_OUT_SHARE = 0.8
"""of the groups of a class that development has left."""
NEAR_DUPLICATE = 0.10
MAX_SAME_CAPTION = 40
FONT_FILES = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif.ttf")
FONT_FOLDER = "usr/share/fonts/truetype/dejavu"
TEMPLATES = ("{c}", "a picture of {c}", "a drawing of {c}", "clip art of {c}", "an icon of {c}")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSet:
    """The finished data set, before it is written."""

    train: list[Pair]
    development: list[Pair]
    held_out: list[Pair]
    classes: list[str]
    tallies: dict[str, Tally]
    figures: dict[str, int]
    junk: dict[str, int]
    """pairs of each kind of junk, on top of the real ones."""


def load(candidates: Sequence[Candidate], tallies: Mapping[str, Tally]) -> list[Item]:
    """Small images of the candidates; bad images and exact duplicates are counted and left out.

    Of images with the same pixels the first with a clean caption stays.
    """
    seen: set[str] = set()
    items = []
    for candidate in sorted(candidates, key=lambda c: not c.clean):
        try:
            image = pictures.small_picture(candidate.picture)
        except pictures.RejectedImageError as rejected:
            tallies[candidate.source].drop(str(rejected))
            continue
        digest = pictures.pixel_digest(image)
        if digest in seen:
            tallies[candidate.source].drop("exact_duplicate")
            continue
        seen.add(digest)
        items.append(Item(candidate=candidate, image=image))
    return sorted(items, key=lambda item: (item.candidate.source, item.candidate.file))


def cap_captions(items: Sequence[Item], tallies: Mapping[str, Tally], rng: Random) -> list[Item]:
    """Keep at most MAX_SAME_CAPTION images of one caption, drawn at random: a few collections would fill the set."""
    order = list(range(len(items)))
    rng.shuffle(order)
    counts: Counter[str] = Counter()
    kept = []
    for index in order:
        caption = items[index].candidate.caption
        counts[caption] += 1
        if counts[caption] > MAX_SAME_CAPTION:
            tallies[items[index].candidate.source].drop("caption_repeated_over_40_times")
        else:
            kept.append(index)
    return [items[index] for index in sorted(kept)]


def train_pairs(items: Sequence[Item], group_of: Sequence[int]) -> list[Pair]:
    """The pairs of real images with their own captions."""
    return [
        Pair(picture=pictures.encode(item.image), fields=fields_of(item.candidate, group))
        for item, group in zip(items, group_of, strict=True)
    ]


def gallery_pairs(items: Sequence[Item], group_of: Sequence[int], classes: Sequence[str]) -> list[Pair]:
    """Gallery pairs; those of a zero-shot class carry its name and index."""
    pairs = []
    for item, group in zip(items, group_of, strict=True):
        fields = fields_of(item.candidate, group)
        if item.candidate.class_name in classes:
            fields |= {"class": item.candidate.class_name, "cls": classes.index(item.candidate.class_name)}
        pairs.append(Pair(picture=pictures.encode(item.image), fields=fields))
    return pairs


def build(unpacked: Path) -> DataSet:
    """The whole data set from the unpacked packages; same packages, same result."""
    rng = Random(SEED)
    pictures.allow_large_headers()
    clip_art, clip_art_tally = openclipart.read_candidates(
        unpacked, english=vocabulary_of(emoji.read_english(unpacked))
    )
    emojis, emoji_tally = emoji.read_candidates(unpacked)
    tallies = {openclipart.SOURCE: clip_art_tally, emoji.SOURCE: emoji_tally}
    items = cap_captions(load([*clip_art, *emojis], tallies), tallies, rng)

    candidates = [item.candidate for item in items]
    thumbnails_ND = np.stack([pictures.thumbnail(item.image) for item in items])
    similar = pictures.near_duplicates(thumbnails_ND, limit=NEAR_DUPLICATE)
    group_of = groups.group_candidates(candidates, similar)
    development = _gallery(candidates, group_of, range(len(items)), rng, class_share=DEVELOPMENT_SHARE)
    closed = {group_of[index] for index in development}
    left = [index for index in range(len(items)) if group_of[index] not in closed]
    held_out = _gallery(candidates, group_of, left, Random(HELD_OUT_SEED), class_share=HELD_OUT_SHARE)
    closed |= {group_of[index] for index in held_out}
    training = [index for index in left if group_of[index] not in closed]

    classes = sorted({candidates[i].class_name or "" for i in development} - {""})
    fonts = paint.load_fonts([unpacked / FONT_FOLDER / name for name in FONT_FILES])
    own, of = [items[i] for i in training], [group_of[i] for i in training]
    real = train_pairs(own, of)
    junk = junk_pairs(own, of, fonts, emoji.read_foreign(unpacked), rng)
    train = [*real, *junk]
    rng.shuffle(train)
    galleries = [
        gallery_pairs([items[i] for i in chosen], [group_of[i] for i in chosen], classes)
        for chosen in (development, held_out)
    ]
    figures = {
        "pictures": len(items),
        "near_duplicate_pairs": len(similar),
        "groups": len(set(group_of)),
        "train": len(real),
        "development": len(development),
        "heldout": len(held_out),
        "other_members_of_gallery_groups": len(items) - len(real) - len(development) - len(held_out),
    }
    return DataSet(
        train=train,
        development=galleries[0],
        held_out=galleries[1],
        classes=classes,
        tallies=tallies,
        figures=figures,
        junk=dict(Counter(str(pair.fields["junk"]) for pair in junk)),
    )


def _gallery(
    candidates: Sequence[Candidate], group_of: Sequence[int], among: Sequence[int], rng: Random, *, class_share: float
) -> list[int]:
    """Indices of a gallery's images, one of each of its groups."""
    chosen = groups.choose_gallery(
        [candidates[i] for i in among],
        [group_of[i] for i in among],
        number=GALLERY,
        per_class=PER_CLASS,
        max_group=MAX_GROUP,
        class_share=class_share,
        rng=rng,
    )
    return [among[i] for i in chosen]
