"""Noto emoji: images are the font's colour bitmaps, captions are CLDR's English names, said as a person would.

In: the unpacked Debian packages. Out: candidates and a tally.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

from fontTools.ttLib import TTFont

from examples.build_data.candidates import Candidate, Tally

SOURCE = "noto-emoji"
LICENCE = "OFL-1.1"
FONT = "usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
CLDR = "usr/share/unicode/cldr/common"
LANGUAGES = ("en", "de", "es", "fr", "it", "nl", "pl", "pt", "ru", "tr")
SKIN_TONES = {
    "light skin tone",
    "medium-light skin tone",
    "medium skin tone",
    "medium-dark skin tone",
    "dark skin tone",
}
PEOPLE = {"man", "woman", "person", "boy", "girl"}
LIGATURE_LOOKUP = 4
CLASS_LABELS = {
    "animal-mammal": "animal",
    "animal-bird": "animal",
    "animal-amphibian": "animal",
    "animal-reptile": "animal",
    "animal-marine": "animal",
    "animal-bug": "animal",
    "plant-flower": "plant",
    "plant-other": "plant",
    "food-fruit": "food",
    "food-vegetable": "food",
    "food-prepared": "food",
    "food-asian": "food",
    "food-sweet": "food",
    "drink": "food",
    "face-positive": "face",
    "face-neutral": "face",
    "face-negative": "face",
    "face-sick": "face",
    "face-role": "face",
    "person": "person",
    "person-role": "person",
    "person-fantasy": "person",
    "person-gesture": "person",
    "person-activity": "person",
    "person-sport": "person",
    "family": "person",
    "clothing": "clothing",
    "place-building": "building",
    "place-religious": "building",
    "transport-ground": "vehicle",
    "transport-water": "vehicle",
    "transport-air": "vehicle",
    "sky & weather": "weather",
    "tool": "tool",
    "musical-instrument": "musical instrument",
    "flag": "flag",
    "country-flag": "flag",
    "subdivision-flag": "flag",
}


def _listed(parts: list[str]) -> str:
    return ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else parts[0]


def _with_traits(head: str, traits: list[str]) -> str:
    if "bald" in traits:
        return _with_traits(f"bald {head}", [trait for trait in traits if trait != "bald"])
    return f"{head} with {_listed(['a beard' if t == 'beard' else t for t in traits])}" if traits else head


def natural_caption(name: str) -> str:
    """CLDR's name of an emoji as a caption: 'flag: Peru' is 'flag of Peru', 'X: dark skin tone' 'X with dark skin
    tone'.
    """
    head, colon, tail = name.partition(": ")
    if not colon:
        return name
    if head == "flag":
        return f"flag of {tail}"
    if head == "keycap":
        return f"keycap {tail}"
    parts = tail.split(", ")
    people = [f"a {part}" for part in parts if part in PEOPLE]
    traits = [part for part in parts if part not in PEOPLE]
    joiner = {"family": "of", "kiss": "between"}.get(head, "of")
    return _with_traits(f"{head} {joiner} {_listed(people)}" if people else head, traits)


def base_name(name: str) -> str:
    """The name without what a colon introduces, except that a flag is its country: 'kiss: man, man' is 'kiss'."""
    head, _, tail = name.partition(": ")
    return f"flag {tail}" if head == "flag" else head


def read_names(annotations: bytes) -> dict[str, str]:
    """Sequence of characters -> English name, from a CLDR annotations file."""
    root = ET.fromstring(annotations)  # noqa: S314  # a file of a signed Debian package
    entries = (e for e in root.iter("annotation") if e.get("type") == "tts")
    return {e.attrib["cp"]: e.text for e in entries if e.text}


def read_foreign(unpacked: Path) -> dict[str, list[str]]:
    """File of an emoji -> its names in other languages, as far as they are no English name of it."""
    names = {
        language: read_names((unpacked / CLDR / f"annotations/{language}.xml").read_bytes()) for language in LANGUAGES
    }
    english = names.pop("en")
    found: dict[str, list[str]] = {}
    for sequence, own in english.items():
        others = [of[sequence] for of in names.values() if sequence in of]
        found[file_of(sequence)] = [name for name in others if " " in name and name.lower() != own.lower()]
    return found


def file_of(sequence: str) -> str:
    """Name of an emoji's file: its code points."""
    return "u" + "_".join(f"{ord(character):x}" for character in sequence)


def read_english(unpacked: Path) -> list[str]:
    """English texts of CLDR (names, keywords, countries): tells whether a caption is English."""
    texts = []
    for path in ("annotations/en.xml", "annotationsDerived/en.xml", "main/en.xml"):
        root = ET.fromstring((unpacked / CLDR / path).read_bytes())  # noqa: S314  # a file of a signed Debian package
        texts += [element.text for element in root.iter() if element.text]
    return texts


def read_labels(labels: str) -> dict[str, str]:
    """Sequence of characters -> second-level label, from CLDR's labels.txt (variation selectors dropped)."""
    result: dict[str, str] = {}
    for line in labels.replace("\ufeff", "").splitlines():
        fields = [field.strip() for field in line.split(";")]
        if line.startswith("[") and len(fields) == 3:
            for sequence in _unicode_set(fields[0].strip("[]").replace("\ufe0f", "")):
                result[sequence] = fields[2]
    return result


def _unicode_set(text: str) -> list[str]:
    """Members of the simple sets that labels.txt uses: characters, ranges a-b and sequences in braces."""
    members: list[str] = []
    for match in re.finditer(r"\{([^}]+)\}|(.)-(.)|(\S)", text):
        sequence, first, last, single = match.groups()
        if first:
            members += [chr(code) for code in range(ord(first), ord(last) + 1)]
        else:
            members.append(sequence or single)
    return members


def class_of(sequence: str, name: str, labels: dict[str, str]) -> str | None:
    """Zero-shot class of an emoji, or None; a variant with a skin tone or a gender has its first character's class."""
    if name.startswith("flag: "):
        return "flag"
    label = labels.get(sequence) or labels.get(sequence[0], "")
    return CLASS_LABELS.get(label)


def _ligatures(font: TTFont) -> dict[tuple[str, ...], str]:
    """Sequence of glyphs -> the glyph that stands for it. Emoji sequences have no code point of their own."""
    table: dict[tuple[str, ...], str] = {}
    for lookup in font["GSUB"].table.LookupList.Lookup:
        if lookup.LookupType != LIGATURE_LOOKUP:
            continue
        for subtable in lookup.SubTable:
            for first, ligatures in subtable.ligatures.items():
                for ligature in ligatures:
                    table.setdefault((first, *ligature.Component), ligature.LigGlyph)
    return table


def read_candidates(unpacked: Path) -> tuple[list[Candidate], Tally]:
    """All emoji that have both an English name and a bitmap, in code point order, and the counts."""
    names: dict[str, str] = {}
    for folder in ("annotations", "annotationsDerived"):
        names.update(read_names((unpacked / CLDR / folder / "en.xml").read_bytes()))
    labels = read_labels((unpacked / CLDR / "properties/labels.txt").read_text(encoding="utf-8"))
    font = TTFont(unpacked / FONT)
    characters, ligatures, bitmaps = font.getBestCmap() or {}, _ligatures(font), font["CBDT"].strikeData[0]
    tally, candidates = Tally(), []
    for sequence in sorted(names):
        tally.seen += 1
        glyphs = tuple(characters.get(ord(character), "") for character in sequence)
        glyph = glyphs[0] if len(glyphs) == 1 else ligatures.get(glyphs, "")
        if glyph not in bitmaps:
            tally.drop("no_bitmap_in_the_font")
            continue
        candidates.append(
            Candidate(
                source=SOURCE,
                file=file_of(sequence),
                caption=natural_caption(names[sequence]),
                names=(base_name(names[sequence]),),
                licence=LICENCE,
                class_name=class_of(sequence, names[sequence], labels),
                boilerplate=False,
                clean=len(names[sequence]) >= 3,
                picture=bytes(bitmaps[glyph].imageData),
            )
        )
    return candidates, tally
