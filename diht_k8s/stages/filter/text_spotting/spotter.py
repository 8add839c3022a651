"""Text spotting with RapidOCR: images in, their texts with confidences out.

The library's defaults enlarge every image to 736 pixels and pad every line to 320. That is ten times slower, with equal
verdicts on web images; the settings here were chosen by measurement (see `benchmarks/`). Recognition runs only on boxes
that the detector finds, in whatever direction the line runs, and stops at the first text that the caller looks for.

A second pass, off by default, looks for small text in a larger copy of the image, and for translucent marks in four
that are turned and changed in colour. The detector is trained on text that is near level and stands out; translucent
marks run along a diagonal and hardly differ from their ground. So the image is turned both ways, and the marks are set
off in two ways each: one copy holds the smallest of the three colour values (white and grey marks keep their brightness
there, whatever has a colour becomes darker), the other evens out the local contrast (CLAHE: Zuiderveld, Graphics Gems
IV, 1994).

The detector can take several images of one size class (equal shape after RapidOCR's preprocessing) in one batch. It
does so on a GPU. On the CPU it does not: that gains little, and each batch size would need its own network. On the CPU
both ways give the same bits (measured, tested). On a GPU the other images of a batch may, in theory, change the last
digits of a confidence. Batches are cut from those of the stage, which do not depend on where a worker was stopped, so a
resumed run sees the same ones. Only images that are read under looser thresholds, next to stored scores, may be batched
differently.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from diht_k8s.api.filter import MIN_STORED_CONFIDENCE, TextSpotting
from diht_k8s.stages.filter.text_spotting.matching import SpottedText
from diht_k8s.stages.filter.text_spotting.rapidocr_engine import (
    LINES_AT_ONCE,
    Device,
    Precision,
    load_engine,
    read_lines,
)

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


_DEFAULTS: Final = TextSpotting()
"""The API holds the defaults of the settings that a run can change."""
MAX_LINES: Final = 64
"""Maximum number of lines read in one image (scanned pages hold hundreds), largest boxes first."""
BATCH_OF: Final[dict[Device, int]] = {"CPU": 1, "CUDA": 32}
"""Maximum number of images in one batch of the detector."""
CLASSES_AT_ONCE: Final = 4
"""Number of batches for which images are gathered: web images have several shapes, and each shape is its own batch. On
the CPU, where a batch is one image, the recogniser's weights stay in the CPU's caches for the lines of this many
images.
"""
MAX_PIXELS_AT_ONCE: Final = 64_000_000
"""Maximum number of pixels of the gathered images (192 MB, twice that during preprocessing). A single image may have
more.
"""

State = Literal["done", "stopped_early"]


@dataclass(frozen=True)
class Spotting:
    """The texts found in one image."""

    texts: tuple[SpottedText, ...]
    """texts with a confidence of at least `MIN_STORED_CONFIDENCE`, largest box first; then those that only the second
    pass read.
    """
    state: State
    """`stopped_early` if the wanted text was found before all boxes were read."""


class SpottingRequest(NamedTuple):
    """An image to read, and the text to stop at."""

    image: Image.Image
    """RGB."""
    wanted: Callable[[SpottedText], bool] | None = None
    """recognition stops at the first text for which this is true; None reads all."""


class TextSpotter:
    """RapidOCR's detector and recogniser (PP-OCR weights from its package), loaded at the first image."""

    def __init__(
        self,
        *,
        detector_size: int = _DEFAULTS.detector_size,
        second_detector_size: int | None = _DEFAULTS.second_detector_size,
        device: Device = _DEFAULTS.device,
        precision: Precision = _DEFAULTS.precision,
        batch: int | None = None,
    ) -> None:
        """Create a spotter; nothing is loaded yet.

        Args:
            detector_size: longest side in pixels of the image that the detector sees. The recogniser sees the full
                image.
            second_detector_size: longest side at which an image is read again if the text looked for was not found:
                as it is, then turned both ways (see `image_views`); None reads it once.
            device: where the networks run; CUDA needs onnxruntime-gpu.
            precision: precision on the CPU. BF16 needs a CPU that supports it, else fp32 is used; a GPU always computes
                in fp32.
            batch: maximum number of images of one size class in a batch of the detector; None takes `BATCH_OF` the
                device.
        """
        self._detector_size = detector_size
        self._views = image_views(detector_size, second_detector_size)
        self._device: Device = device
        self._precision: Precision = precision
        self._batch = BATCH_OF[device] if batch is None else batch
        self._engine: Any = None

    def check_device(self) -> None:
        """Load the models now if that can fail for lack of a GPU.

        Raises:
            UserError: `device` is CUDA and no GPU can be used.
        """
        if self._device != "CPU":
            self._loaded()

    def spot(self, image: Image.Image, wanted: Callable[[SpottedText], bool] | None = None) -> Spotting:
        """Read the texts of one image.

        Args:
            image: RGB image.
            wanted: recognition stops at the first text for which this is true; None reads all.
        """
        return next(self.spot_all([SpottingRequest(image, wanted)]))

    def spot_all(self, requests: Iterable[SpottingRequest]) -> Iterator[Spotting]:
        """Read the texts of images, in the order of the requests, with the same results as one at a time.

        Takes only as many requests as one detection needs, so the images need not all be in memory.
        """
        for together in self._gathered(requests):
            yield from self._read_together(together)

    def _read_together(self, requests: Sequence[SpottingRequest]) -> list[Spotting]:
        found = [Spotting((), "done") for _ in requests]
        for view in self._views:
            unsettled = [place for place, request in enumerate(requests) if not _has_wanted(found[place], request)]
            if not unsettled:
                break
            new = self._read_view(view, [requests[place] for place in unsettled])
            for place, spotting in zip(unsettled, new, strict=True):
                found[place] = _merged(found[place], spotting)
        return found

    def _read_view(self, view: ImageView, requests: Sequence[SpottingRequest]) -> list[Spotting]:
        images = [view_pixels(request.image, view) for request in requests]
        return [
            self._read_until(pixels, boxes, request.wanted)
            for pixels, boxes, request in zip(images, self._boxes(images, view.size), requests, strict=True)
        ]

    def _gathered(self, requests: Iterable[SpottingRequest]) -> Iterator[list[SpottingRequest]]:
        """Groups of requests to process together, small enough for memory."""
        together, pixels = list[SpottingRequest](), 0
        for request in requests:
            together.append(request)
            pixels += request.image.width * request.image.height
            if len(together) == CLASSES_AT_ONCE * self._batch or pixels >= MAX_PIXELS_AT_ONCE:
                yield together
                together, pixels = [], 0
        if together:
            yield together

    def _read_until(
        self, pixels: np.ndarray, boxes: Sequence[Any], wanted: Callable[[SpottedText], bool] | None
    ) -> Spotting:
        found: list[SpottedText] = []
        step = LINES_AT_ONCE[self._device] if wanted is None else 1
        for start in range(0, len(boxes), step):
            for text in self._read(pixels, boxes[start : start + step]):
                found.append(text)
                if wanted is not None and wanted(text):
                    return Spotting(tuple(found), "stopped_early" if start + step < len(boxes) else "done")
        return Spotting(tuple(found), "done")

    def _boxes(self, images: Sequence[np.ndarray], detector_size: int) -> list[list[Any]]:
        """Corner points of the text lines of each image, largest first, since captions rarely repeat the small print.

        Uses RapidOCR's own steps before and after its network, which takes images of one shape as a batch.
        """
        import numpy as np

        detector = self._loaded()._load_det_model()
        prepare = _preprocessing(detector, detector_size)
        boxes: list[list[Any]] = [[] for _ in images]
        size_classes: defaultdict[tuple[int, ...], list[tuple[int, np.ndarray]]] = defaultdict(list)
        for place, pixels in enumerate(images):
            if (prepared := _prepared(prepare, pixels)) is not None:  # None: too narrow for the detector's grid
                size_classes[prepared.shape].append((place, prepared))
        for members in size_classes.values():
            for start in range(0, len(members), self._batch):
                batch = members[start : start + self._batch]
                maps = detector.session(np.concatenate([prepared for _, prepared in batch]))
                for index, (place, _) in enumerate(batch):
                    boxes[place] = _boxes_of(detector, maps[index : index + 1], images[place].shape[:2])
        return boxes

    def _read(self, pixels: np.ndarray, boxes: Sequence[Any]) -> list[SpottedText]:
        lines = read_lines(self._loaded(), pixels, boxes)
        return [line for line in lines if line.text.strip() and line.confidence >= MIN_STORED_CONFIDENCE]

    def _loaded(self) -> Any:
        if self._engine is None:
            self._engine = load_engine(
                detector_size=self._detector_size,
                device=self._device,
                precision=self._precision,
            )
        return self._engine


def _has_wanted(found: Spotting, request: SpottingRequest) -> bool:
    """Whether the text looked for is among those found; it would be the last, since reading stops there."""
    return request.wanted is not None and bool(found.texts) and request.wanted(found.texts[-1])


def _merged(first: Spotting, second: Spotting) -> Spotting:
    """The texts of an image after one more pass; those that were read as surely before are not repeated."""
    confidences = dict[str, float]()
    for text, confidence in first.texts:
        confidences[text] = max(confidence, confidences.get(text, 0))
    new = (text for text in second.texts if text.confidence > confidences.get(text.text, 0))
    return Spotting((*first.texts, *new), second.state)


def _preprocessing(detector: Any, size: int) -> Any:
    """RapidOCR's preprocessing of images for its detector, at another size than that of its settings."""
    prepare = detector.get_preprocess()
    prepare.limit_side_len = size
    return prepare


def _prepared(prepare: Any, pixels: np.ndarray) -> np.ndarray | None:
    """The detector's input for an image, 1 x 3 x height x width; None if the image vanishes when it is resized.

    Bit-equal to RapidOCR's own preprocessing, but normalises each of the 256 levels once instead of every pixel in
    float64.
    """
    import cv2
    import numpy as np

    if (resized := prepare.resize(pixels)) is None:
        return None
    levels = np.arange(256, dtype=np.uint8).reshape(1, 256, 1)
    table = np.broadcast_to(prepare.normalize(levels), (1, 256, 3)).astype(np.float32)
    return cv2.LUT(resized, table).transpose(2, 0, 1)[np.newaxis]


def _boxes_of(detector: Any, probabilities: np.ndarray, shape: tuple[int, ...]) -> list[Any]:
    """Boxes in a probability map of the detector (1 x 1 x height x width), in pixels of an image of the given shape."""
    import cv2

    found, _ = detector.postprocess_op(probabilities, shape)
    return sorted(detector.sorted_boxes(found), key=cv2.contourArea, reverse=True)[:MAX_LINES]
