from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from diht_k8s.data.shards.images import decode
from diht_k8s.data.shards.samples import read_samples
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.filter import TextSpotter
from diht_k8s.stages.filter.text_spotting import spotter
from diht_k8s.stages.filter.text_spotting.matching import SpottedText
from diht_k8s.stages.filter.text_spotting.rapidocr_engine import load_engine
from diht_k8s.stages.filter.text_spotting.spotter import MAX_LINES, Spotting, SpottingRequest, view_pixels

DEMO_SHARD = Path(__file__).parents[3] / "examples/data/train/00000.tar.gz"

SPOTTER = TextSpotter(detector_size=160)
TOGETHER = TextSpotter(detector_size=160, batch=8)


def drawn_image(*lines: str, size: tuple[int, int] = (128, 96)) -> Image.Image:
    image = Image.new("RGB", size, (200, 180, 120))
    for number, line in enumerate(lines):
        font = ImageFont.load_default(22 if number == 0 else 16)
        ImageDraw.Draw(image).text((4, 4 + 32 * number), line, font=font, fill="black")
    return image


@pytest.mark.parametrize(
    ("wanted", "texts", "state"),
    [
        ("giraffe", ["giraffe"], "stopped_early"),
        ("tall", ["giraffe", "tall"], "done"),
        ("no", ["giraffe", "tall"], "done"),
    ],
)
def test_reading_stops_at_the_wanted_text(wanted: str, texts: list[str], state: str) -> None:
    found = SPOTTER.spot(drawn_image("giraffe", "tall"), lambda text: text.text == wanted)
    assert ([text.text for text in found.texts], found.state) == (texts, state)


@pytest.mark.parametrize("degrees", [90, 180, 270, 75, 200])
def test_turned_text_is_read(degrees: int) -> None:
    turned = drawn_image("giraffe", size=(128, 40)).rotate(degrees, Image.Resampling.BICUBIC, True, fillcolor="white")
    assert "giraffe" in [text.text for text in SPOTTER.spot(turned).texts]


@pytest.mark.parametrize(
    ("texts", "passes", "found"),
    [
        (["word"], 1, ["word"]),
        (["no", "word"], 2, ["no", "word"]),
        (["no", "no", "word"], 3, ["no", "no", "word"]),
        (["no", "no", "no", "no", "no", "word"], 6, ["no", "no", "no", "no", "no", "word"]),
        (["", "no", "", "", "", ""], 6, ["no"]),
    ],
)
def test_second_pass_reads_only_what_is_not_found_yet(
    texts: list[str], passes: int, found: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    twice = TextSpotter(detector_size=160, second_detector_size=640)
    seen: list[tuple[int, str, int, int]] = []

    def read(view: Any, requests: Sequence[SpottingRequest]) -> list[Spotting]:
        text = SpottedText(texts[len(seen)], 0.5 + 0.1 * len(seen))
        seen.append((view.size, view.colours, view.turn, len(requests)))
        return [Spotting((text,) if text.text else (), "done") for _ in requests]

    monkeypatch.setattr(twice, "_read_view", read)
    spotting = twice.spot(drawn_image(), lambda text: text.text == "word")
    turned = [("Even", 35), ("Least", -35), ("Least", 35), ("Even", -35)]
    views = [(160, "All", 0, 1), (640, "All", 0, 1), *((640, colours, turn, 1) for colours, turn in turned)]
    assert seen == views[:passes]
    assert [text.text for text in spotting.texts] == found


def test_text_that_a_later_pass_reads_less_surely_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    twice = TextSpotter(detector_size=160, second_detector_size=640)
    answers = iter([SpottedText("word", confidence) for confidence in (0.9, 0.8, 0.95, 0.7, 0.6, 0.5)])
    monkeypatch.setattr(twice, "_read_view", lambda view, requests: [Spotting((next(answers),), "done")])
    assert [text.confidence for text in twice.spot(drawn_image()).texts] == [0.9, 0.95]


def test_second_pass_finds_small_text_that_the_first_misses() -> None:
    page = Image.new("RGB", (640, 480), "white")
    ImageDraw.Draw(page).text((300, 200), "giraffe", font=ImageFont.load_default(13), fill="black")
    assert SPOTTER.spot(page).texts == ()
    found = TextSpotter(detector_size=160, second_detector_size=640).spot(page, lambda text: text.text == "giraffe")
    assert [text.text for text in found.texts] == ["giraffe"]


def faint_mark(degrees: int) -> Image.Image:
    """Red and green stripes, with a translucent white word across them that rises by some degrees."""
    ground = Image.new("RGB", (320, 320), (150, 40, 40))
    for top in range(0, 320, 24):
        ImageDraw.Draw(ground).rectangle((0, top, 320, top + 11), fill=(60, 120, 70))
    mark = Image.new("RGBA", (320, 320))
    ImageDraw.Draw(mark).text((60, 130), "GIRAFFE", font=ImageFont.load_default(48), fill=(255, 255, 255, 100))
    turned = mark.rotate(degrees, Image.Resampling.BICUBIC)
    ground.paste(turned, (0, 0), turned)
    return ground


@pytest.mark.parametrize("degrees", [-45, 35])
def test_second_pass_finds_a_faint_diagonal_mark_that_upright_copies_do_not_show(degrees: int) -> None:
    image, upright = faint_mark(degrees), TextSpotter(detector_size=256, second_detector_size=512)
    upright._views = [view for view in upright._views if not view.turn]
    found = TextSpotter(detector_size=256, second_detector_size=512).spot(image, lambda text: text.text == "GIRAFFE")
    assert "GIRAFFE" not in [text.text for text in upright.spot(image).texts]
    assert "GIRAFFE" in [text.text for text in found.texts]


@pytest.mark.parametrize("size", [(8, 300), (300, 8), (9, 9), (2000, 30)])
def test_extreme_shapes_are_read_without_an_error(size: tuple[int, int]) -> None:
    assert TextSpotter(detector_size=160, second_detector_size=320).spot(drawn_image(size=size)).state == "done"


def test_number_of_lines_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    page = Image.new("RGB", (640, 2000), "white")
    for number in range(100):
        ImageDraw.Draw(page).text((4, 20 * number), f"line {number}", font=ImageFont.load_default(14), fill="black")
    large = TextSpotter(detector_size=2000)
    seen: list[int] = []

    def read(pixels: object, boxes: list[object]) -> list[SpottedText]:
        seen.append(len(boxes))
        return []

    monkeypatch.setattr(large, "_read", read)
    large.spot(page)
    assert sum(seen) == MAX_LINES


@pytest.fixture(scope="module")
def demo_images() -> list[Image.Image]:
    """16 images, most from the demo with words in them: eight squares of one size class, drawings of others, and tall
    ones.
    """
    samples = [sample for sample in read_samples(Storage(), str(DEMO_SHARD)) if sample.problem is None]
    of_kind = {
        kind: (decode(sample.image) for sample in samples if sample.meta.get("junk") == kind)
        for kind in ("text only", "watermark")
    }
    tall = (drawn_image("giraffe", "tall", size=(160, 64 + number)) for number in range(4))
    return [*islice(of_kind["text only"], 8), *islice(of_kind["watermark"], 4), *tall]


@pytest.mark.parametrize("wanted", [None, lambda text: text.confidence > 0.8], ids=["all", "early stop"])
def test_batches_of_one_size_class_find_what_one_at_a_time_finds(
    wanted: Any, demo_images: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [SPOTTER.spot(image, wanted) for image in demo_images]
    detector, batches = TOGETHER._loaded()._load_det_model(), list[int]()
    run = detector.session
    monkeypatch.setattr(detector, "session", lambda pixels: batches.append(len(pixels)) or run(pixels))
    requests = [SpottingRequest(image, wanted) for image in demo_images]
    found = list(TOGETHER.spot_all(requests))
    assert found == alone
    assert sum(bool(spotting.texts) for spotting in found) > 10
    assert sum(batches) == len(demo_images)
    assert (max(batches), len(batches) <= 8) == (8, True)


@pytest.mark.parametrize("mine", [SPOTTER, TOGETHER], ids=["one", "eight"])
def test_boxes_equal_those_of_the_library(mine: TextSpotter, demo_images: list[Image.Image]) -> None:
    pixels = [view_pixels(image, mine._views[0]) for image in demo_images]
    detect = mine._loaded()._load_det_model()
    for boxes, theirs in zip(mine._boxes(pixels, 160), map(detect, pixels), strict=True):
        expected = sorted([] if theirs.boxes is None else theirs.boxes, key=cv2.contourArea, reverse=True)
        assert np.array_equal(boxes, expected[:MAX_LINES])


@pytest.mark.parametrize("shape", [(160, 120, 3), (40, 333, 3), (20, 900, 3), (10, 900, 3)])
def test_preprocessing_is_bit_equal_to_that_of_the_library(shape: tuple[int, ...]) -> None:
    prepare = SPOTTER._loaded()._load_det_model().get_preprocess()
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    mine, theirs = spotter._prepared(prepare, pixels), prepare(pixels)
    assert (mine is None) == (theirs is None)
    assert mine is None or (mine.dtype == theirs.dtype and np.array_equal(mine, theirs))


def test_texts_do_not_depend_on_earlier_images(demo_images: list[Image.Image], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spotter, "load_engine", load_engine)  # of its own, which has seen nothing
    images = [demo_images[0], demo_images[-1], drawn_image("giraffe", "tall")]
    fresh = TextSpotter(detector_size=160)
    assert [fresh.spot(image) for image in reversed(images)] == [SPOTTER.spot(image) for image in images][::-1]


@pytest.mark.parametrize(
    ("batch", "pixels", "held"),
    [(1, 10**9, [2, 2, 2]), (1, 1, [1, 1, 1, 1, 1, 1]), (2, 10**9, [4, 2]), (2, 3 * 64 * 64, [3, 3])],
)
def test_requests_are_consumed_lazily_and_few_images_are_held(
    batch: int, pixels: int, held: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spotter, "MAX_PIXELS_AT_ONCE", pixels)
    monkeypatch.setattr(spotter, "CLASSES_AT_ONCE", 2)
    drawn: list[int] = []

    def requests() -> Iterator[SpottingRequest]:
        for number in range(6):
            drawn.append(number)
            yield SpottingRequest(drawn_image(size=(64, 64)))

    counts, before = [], 0
    mine = TextSpotter(detector_size=64, batch=batch)
    monkeypatch.setattr(mine, "_read_view", lambda view, together: [Spotting((), "done") for _ in together])
    for _ in mine.spot_all(requests()):
        if len(drawn) > before:
            counts.append(len(drawn) - before)
        before = len(drawn)
    assert counts == held
