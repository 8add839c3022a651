"""The recipe of the data set: candidates -> images -> groups -> split -> painted words -> shards, with all counts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, ImageFont

from examples.build_data import emoji, groups, openclipart, paint, pictures
from examples.build_data.candidates import Candidate, Tally, vocabulary_of
from examples.build_data.shards import Pair

SEED = 20230105
HELD_OUT = 500
HELD_OUT_PER_CLASS = 30
MAX_HELD_OUT_GROUP = 12
PAINTED_SHARE = 0.10
NEAR_DUPLICATE = 0.10
MAX_SAME_CAPTION = 40
FONT_FILES = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif.ttf")
FONT_FOLDER = "usr/share/fonts/truetype/dejavu"
TEMPLATES = ("{c}", "a picture of {c}", "a drawing of {c}", "clip art of {c}", "an icon of {c}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A candidate with its small image."""

    candidate: Candidate
    image: Image.Image


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSet:
    """The finished data set, before it is written."""

    train: list[Pair]
    development: list[Pair]
    classes: list[str]
    tallies: dict[str, Tally]
    figures: dict[str, int]


def uid_of(candidate: Candidate) -> str:
    """Identity of an image, stable over rebuilds: digest of source and file."""
    return hashlib.sha256(f"{candidate.source}/{candidate.file}".encode()).hexdigest()[:12]


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


def fields_of(candidate: Candidate, group: int) -> dict[str, object]:
    """JSON fields that every pair has."""
    return {
        "caption": candidate.caption,
        "uid": uid_of(candidate),
        "source": candidate.source,
        "group": group,
        "painted": False,
        "licence": candidate.licence,
        "file": candidate.file,
    }


def train_pairs(
    items: Sequence[Item], group_of: Sequence[int], fonts: Sequence[ImageFont.FreeTypeFont], rng: Random
) -> list[Pair]:
    """Training pairs in random order, a tenth of them with painted words."""
    order = list(range(len(items)))
    rng.shuffle(order)
    wanted = round(PAINTED_SHARE * len(items))
    pairs: list[Pair] = []
    for index in order:
        item, fields = items[index], fields_of(items[index].candidate, group_of[index])
        result = paint.paint_words(item.image, item.candidate.caption, fonts, rng) if wanted else None
        image = item.image
        if result is not None:
            wanted -= 1
            image, painted = result
            fields["painted"] = {
                "text": " ".join(painted.words),
                "words": list(painted.words),
                "cap_height_px": painted.cap_height_px,
                "font_size": painted.font_size,
            }
        pairs.append(Pair(picture=pictures.encode(image), fields=fields))
    rng.shuffle(pairs)  # the painted ones came first
    return pairs


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
    chosen = groups.choose_held_out(
        candidates,
        group_of,
        number=HELD_OUT,
        per_class=HELD_OUT_PER_CLASS,
        max_group=MAX_HELD_OUT_GROUP,
        rng=rng,
    )
    closed = {group_of[index] for index in chosen}
    training = [index for index in range(len(items)) if group_of[index] not in closed]

    classes = sorted({candidates[i].class_name or "" for i in chosen} - {""})
    fonts = paint.load_fonts([unpacked / FONT_FOLDER / name for name in FONT_FILES])
    train = train_pairs([items[i] for i in training], [group_of[i] for i in training], fonts, rng)
    development = gallery_pairs([items[i] for i in chosen], [group_of[i] for i in chosen], classes)
    figures = {
        "pictures": len(items),
        "near_duplicate_pairs": len(similar),
        "groups": len(set(group_of)),
        "train": len(train),
        "train_painted": sum(bool(pair.fields["painted"]) for pair in train),
        "development": len(development),
        "other_members_of_development_groups": len(items) - len(train) - len(development),
    }
    return DataSet(train=train, development=development, classes=classes, tallies=tallies, figures=figures)
