"""Views of an image, one for each pass over it: its size, its colours, and the direction that lies level.

The detector is trained on text that is near level and stands out. Translucent marks run along a diagonal and hardly
differ from their ground, so the second pass turns the image both ways and sets the marks off in two ways each: one copy
holds the smallest of the three colour values (white and grey marks keep their brightness there, whatever has a colour
becomes darker), the other evens out the local contrast (CLAHE: Zuiderveld, Graphics Gems IV, 1994).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

MAX_ENLARGEMENT: Final = 3.0
"""Maximum enlargement of an image below the detector's size; more would only blur the letters."""
MIN_IMAGE_SIDE: Final = 32
"""The detector's grid."""
TURN: Final = 35
"""Degrees by which the second pass turns an image: near the diagonal of pages and photographs (34 degrees at 3:2, 37 at
4:3), and the middle of 20 to 50. The detector reads text within 15 degrees of level as well as level text.
"""
MAX_TURNED_SIDE: Final = 4096
"""Maximum side in pixels of a turned copy: OpenCV turns images of less than 32,768."""
CLIP: Final = 4.0
"""How much CLAHE may amplify contrast; more amplifies noise."""
TILES: Final = (8, 8)
"""CLAHE's tiles; OpenCV's default."""


Colours = Literal["All", "Least", "Even"]
"""Least: the smallest of the three colour values of each pixel, as grey. Even: the lightness by CLAHE."""
TURNED: Final[tuple[tuple[Colours, int], ...]] = (("Even", TURN), ("Least", -TURN), ("Least", TURN), ("Even", -TURN))
"""The turned copies of the second pass: both directions before either is looked at a second time."""


class ImageView(NamedTuple):
    """Size, colours and turn of an image in one pass over it."""

    size: int
    """longest side in pixels of what the detector sees."""
    colours: Colours = "All"
    turn: int = 0
    """degrees, counter-clockwise."""


def image_views(size: int, second_size: int | None) -> list[ImageView]:
    """The passes over an image, in order."""
    if second_size is None:
        return [ImageView(size)]
    turned = [ImageView(second_size, colours, turn) for colours, turn in TURNED]
    return [ImageView(size), ImageView(second_size), *turned]


def view_pixels(image: Image.Image, view: ImageView) -> np.ndarray:
    """Pixels, height x width x 3 (BGR, uint8), enlarged towards the detector's size if the image is smaller.

    Args:
        image: RGB image.
        view: what to do with it. A turned copy holds the whole image; its edges are continued into the corners.
    """
    import cv2
    import numpy as np

    pixels = cv2.cvtColor(np.asarray(image), cv2.COLOR_RGB2BGR)
    return _recoloured(_turned(pixels, view) if view.turn else _resized(pixels, view.size), view)


def _resized(pixels: np.ndarray, size: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    factor = min(size / max(height, width), MAX_ENLARGEMENT)
    if factor <= 1 and min(height, width) >= MIN_IMAGE_SIDE:
        return pixels
    return _scaled(pixels, factor, MIN_IMAGE_SIDE)


def _scaled(pixels: np.ndarray, factor: float, least_side: int) -> np.ndarray:
    import cv2

    height, width = pixels.shape[:2]
    shape = (max(round(width * factor), least_side), max(round(height * factor), least_side))
    return cv2.resize(pixels, shape, interpolation=cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA)


def _turned(pixels: np.ndarray, view: ImageView) -> np.ndarray:
    import cv2

    side = max(_turning(pixels, view.turn)[1])
    factor = min(max(min(view.size / side, MAX_ENLARGEMENT), 1.0), MAX_TURNED_SIDE / side)
    scaled = pixels if factor == 1 else _scaled(pixels, factor, 1)
    matrix, shape = _turning(scaled, view.turn)
    return cv2.warpAffine(scaled, matrix, shape, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _turning(pixels: np.ndarray, degrees: int) -> tuple[np.ndarray, tuple[int, int]]:
    """The matrix that turns an image about its centre, and the width and height that hold all of it."""
    import cv2
    import numpy as np

    height, width = pixels.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    across, down = np.ceil(np.abs(matrix[:, :2]) @ (width, height))
    matrix[:, 2] += ((across - width) / 2, (down - height) / 2)
    return matrix, (int(across), int(down))


def _recoloured(pixels: np.ndarray, view: ImageView) -> np.ndarray:
    import cv2

    if view.colours == "Least":
        blue, green, red = cv2.split(pixels)
        return cv2.cvtColor(cv2.min(cv2.min(blue, green), red), cv2.COLOR_GRAY2BGR)
    if view.colours == "Even":
        lightness, *colours = cv2.split(cv2.cvtColor(pixels, cv2.COLOR_BGR2LAB))
        even = cv2.createCLAHE(CLIP, TILES).apply(lightness)
        return cv2.cvtColor(cv2.merge((even, *colours)), cv2.COLOR_LAB2BGR)
    return pixels
