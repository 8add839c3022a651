from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from diht_k8s.stages.filter.text_spotting.spotter import MAX_TURNED_SIDE, ImageView, image_views, view_pixels

SHADES = Image.fromarray(np.random.default_rng(0).integers(90, 120, (96, 160, 3), dtype=np.uint8))


@pytest.mark.parametrize("view", image_views(256, 512), ids=str)
def test_pixels_are_the_same_each_time_and_leave_the_image_alone(view: ImageView) -> None:
    before = np.array(SHADES)
    assert np.array_equal(view_pixels(SHADES, view), view_pixels(SHADES, view))
    assert np.array_equal(np.asarray(SHADES), before)


def test_least_view_holds_the_least_of_the_three_colours_as_grey() -> None:
    pixels = view_pixels(Image.new("RGB", (160, 160), (200, 30, 90)), ImageView(160, "Least"))
    assert (pixels.shape, set(pixels.ravel().tolist())) == ((160, 160, 3), {30})


def test_even_view_spreads_faint_contrast_and_keeps_the_hue() -> None:
    ground = Image.new("RGB", (160, 160), (120, 60, 60))
    ground.paste((126, 66, 66), (70, 70, 90, 90))
    pixels = view_pixels(ground, ImageView(160, "Even")).astype(int)
    assert pixels[80, 80, 2] - pixels[20, 20, 2] > 6
    assert (pixels[:, :, 2] > pixels[:, :, 0]).all()


@pytest.mark.parametrize(
    ("size", "shown"),
    [((320, 320), (512, 512)), ((640, 480), (800, 761)), ((9, 9), (38, 38)), ((16000, 8), (MAX_TURNED_SIDE, 2867))],
)
@pytest.mark.parametrize("turn", [35, -35])
def test_turned_view_holds_the_whole_image_near_the_size_of_the_detector(
    size: tuple[int, int], shown: tuple[int, int], turn: int
) -> None:
    height, width = view_pixels(Image.new("RGB", size), ImageView(512, turn=turn)).shape[:2]
    assert np.abs(np.subtract((width, height), shown)).max() <= 2


@pytest.mark.parametrize(("turn", "end"), [(35, "upper"), (-35, "lower")])
def test_turned_view_turns_counter_clockwise(turn: int, end: str) -> None:
    image = Image.new("RGB", (200, 100))
    image.paste((255, 255, 255), (180, 45, 190, 55))
    rows = np.argwhere(view_pixels(image, ImageView(200, turn=turn))[:, :, 0] > 128)[:, 0]
    middle = view_pixels(image, ImageView(200, turn=turn)).shape[0] / 2
    assert ("upper" if rows.mean() < middle else "lower") == end
