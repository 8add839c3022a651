from __future__ import annotations

import pytest
from PIL import Image, ImageDraw, ImageFont

from diht_k8s.recipe.cat import TextSpotter
from diht_k8s.recipe.cat.matching import SpottedText
from diht_k8s.recipe.cat.spotter import MAX_LINES

SPOTTER = TextSpotter(detector_size=160)


def picture(*lines: str, size: tuple[int, int] = (128, 96)) -> Image.Image:
    image = Image.new("RGB", size, (200, 180, 120))
    for number, line in enumerate(lines):
        font = ImageFont.load_default(22 if number == 0 else 16)
        ImageDraw.Draw(image).text((4, 4 + 32 * number), line, font=font, fill="black")
    return image


def test_text_is_read_with_its_confidence() -> None:
    found = SPOTTER.spot(picture("giraffe"))
    assert [text.text for text in found.texts] == ["giraffe"]
    assert (found.texts[0].confidence > 0.9, found.state) == (True, "done")


def test_all_lines_are_read_largest_first() -> None:
    assert [text.text for text in SPOTTER.spot(picture("giraffe", "tall")).texts] == ["giraffe", "tall"]


@pytest.mark.parametrize(
    ("wanted", "texts", "state"),
    [
        ("giraffe", ["giraffe"], "stopped_early"),
        ("tall", ["giraffe", "tall"], "done"),
        ("no", ["giraffe", "tall"], "done"),
    ],
)
def test_reading_stops_at_the_wanted_text(wanted: str, texts: list[str], state: str) -> None:
    found = SPOTTER.spot(picture("giraffe", "tall"), lambda text: text.text == wanted)
    assert ([text.text for text in found.texts], found.state) == (texts, state)


def test_no_line_is_recognised_where_no_box_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*arguments: object) -> list[SpottedText]:
        raise AssertionError("the recogniser ran")

    monkeypatch.setattr(SPOTTER, "_read", read)
    assert SPOTTER.spot(picture()).texts == ()


@pytest.mark.parametrize("size", [(8, 300), (300, 8), (9, 9), (2000, 30)])
def test_extreme_shapes_are_read_without_a_fault(size: tuple[int, int]) -> None:
    assert SPOTTER.spot(picture(size=size)).state == "done"


def test_number_of_lines_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    page = Image.new("RGB", (640, 2000), "white")
    for number in range(100):
        ImageDraw.Draw(page).text((4, 20 * number), f"line {number}", font=ImageFont.load_default(14), fill="black")
    spotter = TextSpotter(detector_size=2000)
    seen: list[int] = []

    def read(pixels: object, boxes: list[object]) -> list[SpottedText]:
        seen.append(len(boxes))
        return []

    monkeypatch.setattr(spotter, "_read", read)
    spotter.spot(page)
    assert sum(seen) == MAX_LINES
