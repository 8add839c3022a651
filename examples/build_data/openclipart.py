"""Openclipart: images are the PNGs, captions come from the metadata of the SVG of the same name.

In: the unpacked Debian packages. Out: candidates and a tally. Titles are taken as they are, because bad titles are what
the CAT filter is for; what is left out is counted by reason.
"""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from examples.build_data.candidates import Candidate, Tally, words_of

SOURCE = "openclipart"
LICENCE = "CC-PDDC"  # SPDX: Creative Commons Public Domain Dedication and Certification
ROOT = "usr/share/openclipart"
DC = "{http://purl.org/dc/elements/1.1/}"
LEFT_OUT_FOLDERS = ("shapes/stars", "special/patterns", "special/gradients")
UNSUITABLE = frozenset({"nude", "naked", "nudo", "stripper", "sexy", "porn", "nazi", "swastika", "sunwheel", "erotic"})
BOILERPLATE_REPEATS = 10  # a title that this many images share names a collection, not an image
DESCRIPTION_REPEATS = 5
MIN_DESCRIPTION_WORDS = 4
MAX_DESCRIPTION_LETTERS = 160
MAX_KEYWORDS = 3
JUNK_KEYWORDS = (
    "hash unsorted icon icons theme computer mapsym sign signs symbol symbols shape clipart clip art image picture "
    "signs_and_symbols networksym appicon lemon_theme_icon map_symbol united_nations_member subnational musicstuff "
    "arrowshape menu filesystem mimetypes recreation miscellany pulsanti geometry"
)
CLASS_FOLDERS = (  # first match wins
    ("animals/fantasy", None),
    ("animals", "animal"),
    ("plants", "plant"),
    ("food", "food"),
    ("people/smilies", "face"),
    ("people/clothing", "clothing"),
    ("people/bodypart", None),
    ("people", "person"),
    ("signs_and_symbols/flags/semaphore", None),
    ("signs_and_symbols/flags", "flag"),
    ("transportation/roadsigns", None),
    ("transportation/aiga-symbols", None),
    ("transportation", "vehicle"),
    ("buildings/furniture", None),
    ("buildings", "building"),
    ("tools/weapons", None),
    ("tools", "tool"),
    ("recreation/music", "musical instrument"),
    ("signs_and_symbols/weather", "weather"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Metadata:
    """What an SVG says about itself; empty strings where it says nothing."""

    title: str
    description: str
    keywords: tuple[str, ...]
    author: str
    licence: str
    links_picture: bool
    """The drawing shows an image from another file, which was missing when the PNG was made."""


def _local(tag: object) -> str:
    return str(tag).rsplit("}", 1)[-1]


def _clean(text: str | None) -> str:
    return " ".join((text or "").split())


def read_metadata(svg: bytes) -> Metadata:
    """Metadata of an SVG. Raises `xml.etree.ElementTree.ParseError` when it is no XML."""
    root = ET.fromstring(svg)  # noqa: S314  # a file of a signed Debian package
    work = next((e for e in root.iter() if _local(e.tag) == "Work"), None)
    hrefs = [
        value.strip()
        for element in root.iter()
        if _local(element.tag) == "image"
        for name, value in element.attrib.items()
        if _local(name) == "href"
    ]
    links_picture = any(not href.startswith("data:") for href in hrefs)
    if work is None:
        return Metadata(title="", description="", keywords=(), author="", licence="", links_picture=links_picture)
    creator = next((e for e in work.iter() if _local(e.tag) == "creator"), None)
    return Metadata(
        title=_clean(work.findtext(f"{DC}title")),
        description=_clean(work.findtext(f"{DC}description")),
        keywords=tuple(_clean(e.text) for e in work.iter() if _local(e.tag) == "li"),
        author=_clean(
            next((e.text for e in creator.iter() if _local(e.tag) == "title"), "") if creator is not None else ""
        ),
        licence=" ".join(v for e in work.iter() if _local(e.tag) == "license" for v in e.attrib.values()).strip(),
        links_picture=links_picture,
    )


def good_keywords(keywords: tuple[str, ...], title: str) -> list[str]:
    """The first few keywords that add something to the title; hashes, hexadecimal numbers and folder names do not."""
    known, chosen = {word.rstrip("s") for word in words_of(title)}, []
    for keyword in keywords:
        words = words_of(keyword)
        junk = keyword.lower() in JUNK_KEYWORDS.split() or re.search(r"hash|0x[0-9a-f]|\d", keyword.lower())
        stems = {word.rstrip("s") for word in words}
        if not words or junk or known.issuperset(stems):
            continue
        chosen.append(" ".join(words))
        known.update(stems)
    return chosen[:MAX_KEYWORDS]


def good_description(description: str, repeats: int) -> str:
    """The description's first sentence, or nothing when it is short, shared by many images, or an address."""
    if repeats >= DESCRIPTION_REPEATS or re.search(r"@|https?:|hash\(|www\.", description.lower()):
        return ""
    sentence = re.split(r"(?<=[.!?])\s", description)[0].rstrip(". ")
    long_enough = len(words_of(sentence)) >= MIN_DESCRIPTION_WORDS
    return sentence if long_enough and len(sentence) <= MAX_DESCRIPTION_LETTERS else ""


def caption_of(meta: Metadata, *, file: str, title_repeats: int, description_repeats: int) -> tuple[str, bool]:
    """Caption of an image, and whether it is boilerplate.

    A title of a whole collection and a title that looks like a file name stay as they are: noise of the kind that web
    captions carry. A sentence of description is added where there is one, else keywords to a title of one or two words.
    """
    name = file.rsplit("/", 1)[-1]
    if name.startswith("contour_"):  # all titled "contour_chipmunk", whatever the animal
        return name.replace("_", " "), False
    if title_repeats >= BOILERPLATE_REPEATS or meta.title.startswith("Clipart by Nicu Buculei"):
        return meta.title, True
    if "_" in meta.title:
        return meta.title, False
    description = good_description(meta.description, description_repeats)
    if description:
        contained = set(words_of(meta.title)) <= set(words_of(description))
        return (description if contained else f"{meta.title}: {description}"), False
    if len(words_of(meta.title)) <= 2:
        return ", ".join([meta.title, *good_keywords(meta.keywords, meta.title)]), False
    return meta.title, False


def class_of(file: str) -> str | None:
    """Zero-shot class of an image by its folder, or None."""
    return next((name for folder, name in CLASS_FOLDERS if file.startswith(folder + "/")), None)


def without_author(name: str, author: str) -> str:
    """A file name without its author's name, of which the collection appended as many letters as fitted."""
    stem = re.sub(r"_+\d*[a-z]?$", "", name)
    slug = "_".join(words_of(author))
    for length in range(len(slug), 2, -1):
        if stem.endswith("_" + slug[:length].rstrip("_")):
            return stem[: -len(slug[:length].rstrip("_")) - 1]
    return stem


def reason_to_drop(file: str, meta: Metadata | None) -> str | None:
    """Why an image is left out, or None; `meta` is None where the SVG could not be read."""
    if file.startswith(tuple(f"{folder}/" for folder in LEFT_OUT_FOLDERS)):
        return "folder_of_shapes_or_patterns"
    if meta is None:
        return "svg_unreadable"
    if "GPL" in meta.licence:
        return "licence_gpl"
    if not meta.licence or "ublic" not in meta.licence:
        return "licence_missing"
    if meta.links_picture:
        return "linked_image_missing"
    if UNSUITABLE.intersection(words_of(" ".join((file, meta.title, meta.description, *meta.keywords)))):
        return "unsuitable"
    return None if len(meta.title) >= 3 else "caption_too_short"


def _metadata_or_none(svg: Path) -> Metadata | None:
    try:
        return read_metadata(svg.read_bytes())
    except ET.ParseError:
        return None  # counted as svg_unreadable


def read_candidates(unpacked: Path, *, english: frozenset[str]) -> tuple[list[Candidate], Tally]:
    """All images of openclipart that may be used, in path order.

    Args:
        unpacked: folder below which the two packages were unpacked.
        english: known English words; a caption with mostly other words does not count as clean.

    Returns:
        The candidates and the counts of what was seen and left out.
    """
    tally, found = Tally(), {}
    svg_root, png_root = unpacked / ROOT / "svg", unpacked / ROOT / "png"
    for png in sorted(Path(folder) / name for folder, _, names in os.walk(png_root) for name in names):
        if png.suffix != ".png":
            continue
        tally.seen += 1
        file = png.relative_to(png_root).with_suffix("").as_posix()
        svg = (svg_root / file).with_name(png.stem + ".svg")
        if png.is_symlink() or svg.is_symlink():
            tally.drop("link_to_another_picture")
        elif not svg.exists():
            tally.drop("svg_missing")
        else:
            meta = _metadata_or_none(svg)
            reason = reason_to_drop(file, meta)
            if reason is None and meta is not None:
                found[file] = (png, meta)
            else:
                tally.drop(reason or "svg_unreadable")
    return _candidates(found, english), tally


def _candidates(found: dict[str, tuple[Path, Metadata]], english: frozenset[str]) -> list[Candidate]:
    titles = Counter(meta.title for _, meta in found.values())
    descriptions = Counter(meta.description for _, meta in found.values())
    candidates = []
    for file, (png, meta) in found.items():
        caption, boilerplate = caption_of(
            meta,
            file=file,
            title_repeats=titles[meta.title],
            description_repeats=descriptions[meta.description],
        )
        own = without_author(file.rsplit("/", 1)[-1], meta.author)
        foreign = 2 * sum(word in english for word in words_of(caption)) <= len(words_of(caption))
        candidates.append(
            Candidate(
                source=SOURCE,
                file=file,
                caption=caption,
                names=((own,) if boilerplate else (meta.title, own)),
                licence=LICENCE,
                class_name=class_of(file),
                boilerplate=boilerplate,
                clean=not (boilerplate or foreign or "_" in caption),
                picture=png,
            )
        )
    return candidates
