"""Paint words of an image's own caption into it, so that text spotting has something to find and a truth to score.

In: a small RGB image and its caption. Out: the image with text and a record of what was painted, or None when no
run of the caption's words fits. Letters are at least 14 px high (capitals), which an OCR model reads after enlarging.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from PIL import Image, ImageDraw, ImageFont, ImageStat

from examples.build_data.candidates import WORD

MIN_LETTERS = 5
MIN_CAP_HEIGHT_PX = 14
FONT_SIZES = (20, 21, 22, 24)  # DejaVu's capitals are 0.729 of the size: 14.6 px and more
MAX_LINES = 2
PADDING = 3
MIN_WORD_LETTERS = 3
FUNCTION_WORDS = "a an the of in on by for to from with and or at is are"  # no evidence of a copied caption


@dataclass(frozen=True, kw_only=True, slots=True)
class Painted:
    """What was painted."""

    words: tuple[str, ...]
    """Words as painted, in caption order."""
    cap_height_px: int
    """Height of a capital letter."""
    font_size: int
    """Font size in px."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Lines of text in a font, and the size of their box."""

    lines: tuple[str, ...]
    font: ImageFont.FreeTypeFont
    width: int
    height: int
    line_height: int


def cap_height(font: ImageFont.FreeTypeFont) -> int:
    """Height of the letter H in px."""
    _, top, _, bottom = font.getbbox("H")
    return int(bottom - top)


def letters_in(words: Sequence[str]) -> int:
    """Letters and digits of the words together."""
    return sum(character.isalnum() for word in words for character in word)


def runs_of_words(caption: str) -> list[tuple[str, ...]]:
    """Runs of one or two neighbouring content words of a caption with at least 5 letters and digits together."""
    words = [word for word in WORD.findall(caption) if word.isascii()]
    runs = [tuple(words[i : i + n]) for n in range(1, MAX_LINES + 1) for i in range(len(words) - n + 1)]
    return [
        run
        for run in runs
        if letters_in(run) >= MIN_LETTERS
        and all(letters_in([word]) >= MIN_WORD_LETTERS and word.lower() not in FUNCTION_WORDS.split() for word in run)
    ]


def layouts(run: Sequence[str], fonts: Sequence[ImageFont.FreeTypeFont], size: tuple[int, int]) -> list[Layout]:
    """Every way to set the words, one a line or all on one line, that fits inside an image of the given size."""
    found = []
    for lines in dict.fromkeys([tuple(run), (" ".join(run),)]):
        for font in fonts:
            boxes = [font.getbbox(line) for line in lines]
            width = int(max(box[2] - box[0] for box in boxes)) + 2 * PADDING
            line_height = cap_height(font) + 7
            height = line_height * len(lines) + 2 * PADDING
            if width <= size[0] and height <= size[1]:
                found.append(Layout(lines=lines, font=font, width=width, height=height, line_height=line_height))
    return found


def _colours(image: Image.Image, box: tuple[int, int, int, int], rng: Random) -> tuple[str, str]:
    """Text colour and the opposite: dark on a light ground, light on a dark one."""
    light_ground = ImageStat.Stat(image.crop(box).convert("L")).mean[0] > 128
    dark = rng.choice(("black", "navy", "darkred", "darkgreen", "indigo"))
    light = rng.choice(("white", "white", "lightyellow", "yellow"))
    return (dark, light) if light_ground else (light, dark)


def _draw(image: Image.Image, layout: Layout, rng: Random) -> None:
    left = rng.randint(0, image.width - layout.width)
    top = rng.randint(0, image.height - layout.height)
    box = (left, top, left + layout.width, top + layout.height)
    text, ground = _colours(image, box, rng)
    draw = ImageDraw.Draw(image)
    draw.fontmode = "L"
    outline = 0
    style = rng.choice(("plate", "outline", "plain"))
    busy = max(ImageStat.Stat(image.crop(box).convert("L")).stddev) > 25
    if style == "plate":
        draw.rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=ground)
    elif style == "outline" or busy:  # bare letters need an even ground
        outline = 2
    for number, line in enumerate(layout.lines):
        bounds = layout.font.getbbox(line)
        x = left + (layout.width - (bounds[2] - bounds[0])) / 2 - bounds[0]
        baseline = top + PADDING + number * layout.line_height + cap_height(layout.font) + 1
        draw.text(
            (x, baseline), line, font=layout.font, fill=text, anchor="ls", stroke_width=outline, stroke_fill=ground
        )


def load_fonts(paths: Sequence[Path]) -> list[ImageFont.FreeTypeFont]:
    """The given font files in all sizes that reach the minimum height of capitals."""
    fonts = [
        ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC) for path in paths for size in FONT_SIZES
    ]
    return [font for font in fonts if cap_height(font) >= MIN_CAP_HEIGHT_PX]


def paint_words(
    image: Image.Image, caption: str, fonts: Sequence[ImageFont.FreeTypeFont], rng: Random
) -> tuple[Image.Image, Painted] | None:
    """Paint a run of the caption's words at a random place, in a random fitting font, colour and style.

    Args:
        image: RGB image; it is not changed.
        caption: its caption.
        fonts: fonts to choose from.
        rng: decides everything that is random.

    Returns:
        The painted image and the record, or None when nothing fits.
    """
    runs = runs_of_words(caption)
    choices = []
    for run in runs:
        shown = run if rng.random() < 0.6 else tuple(word.upper() for word in run)
        fitting = layouts(shown, fonts, image.size)
        if fitting:
            choices.append((shown, rng.choice(fitting)))
    if not choices:
        return None
    words, layout = rng.choice(choices)
    painted = image.copy()
    _draw(painted, layout, rng)
    return painted, Painted(words=words, cap_height_px=cap_height(layout.font), font_size=int(layout.font.size))
