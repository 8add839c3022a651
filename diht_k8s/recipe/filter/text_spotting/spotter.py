"""Text spotting with RapidOCR: images in, their texts with confidences out.

The library's defaults enlarge every image to 736 pixels and pad every line to 320, which is ten times slower at equal
verdicts on web images; the settings here were chosen by measuring (see `benchmarks/`). No line is recognised where the
detector finds no box, and recognition ends at the first text that the caller was looking for.

Detection can take several images of one size class (equal shape after RapidOCR's own preparation) in one run of its network.
On a GPU it does; on a processor it does not, where that gains little and each number of images would be a network of its own. On
the processor both ways give the same bits (measured, tested). On a GPU an image's companions may change the last digits of a
confidence, in theory: companions are cut from the stage's batches, which do not depend on where a worker was stopped, so a
resumed run sees the same ones; only images that are read under looser thresholds beside stored scores may see others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from diht_k8s.recipe.filter.text_spotting.engine import LINES_AT_ONCE, Device, load_engine
from diht_k8s.recipe.filter.text_spotting.matching import SpottedText
from diht_k8s.recipe.filter.text_spotting.networks import Precision

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

MIN_CONFIDENCE: Final = 0.3
"""Texts below it are noise and not stored; thresholds of the rule may lie anywhere above."""
MAX_ENLARGEMENT: Final = 3.0
"""An image below the detector's size is enlarged at most so much: beyond that, letters only get blurred."""
MAX_LINES: Final = 64
"""Lines read of one image (scanned pages hold hundreds); the largest boxes first."""
MIN_IMAGE_SIDE: Final = 32
"""The detector's grid."""
BATCH_OF: Final[dict[Device, int]] = {"CPU": 1, "CUDA": 32}
"""Images in one run of the detector at most."""
CLASSES_AT_ONCE: Final = 4
"""Batches that images are gathered for: web images have several shapes, and each shape is a batch of its own. On a processor,
where a batch is one image, the recogniser's weights stay in its caches for the lines of so many."""
MAX_PIXELS_AT_ONCE: Final = 64_000_000
"""Pixels of the images that are gathered at most (192 MB, and twice that while they are prepared); a single image may have more."""

State = Literal["done", "stopped_early"]


@dataclass(frozen=True)
class Spotting:
    """What was found in one image."""

    texts: tuple[SpottedText, ...]
    """all with a confidence of at least `MIN_CONFIDENCE`, largest box first."""
    state: State
    """stopped_early: the wanted text was found, so the remaining boxes were not read."""


class SpottingRequest(NamedTuple):
    """An image to be read."""

    image: Image.Image
    """RGB."""
    wanted: Callable[[SpottedText], bool] | None = None
    """recognition ends at the first text for which this is true; None reads all."""


class TextSpotter:
    """Detector and recogniser of RapidOCR (PP-OCR weights of its package), loaded at the first image."""

    def __init__(
        self,
        *,
        detector_size: int = 256,
        threads: int = 1,
        device: Device = "CPU",
        precision: Precision = "BF16",
        batch: int | None = None,
    ) -> None:
        """Make a spotter; nothing is loaded yet.

        Args:
            detector_size: longest side in pixels at which text is looked for. Recognition reads the full image.
            threads: threads of one inference. Several processes of one thread each are faster than one of several.
            device: where the networks run; CUDA needs onnxruntime-gpu.
            precision: what a processor may compute in: BF16 where it has that, else fp32; a GPU always computes in fp32.
            batch: images of one size class that the detector sees at once, at most; `BATCH_OF` the device when None.
        """
        self._detector_size, self._threads = detector_size, threads
        self._device: Device = device
        self._precision: Precision = precision
        self._batch = BATCH_OF[device] if batch is None else batch
        self._engine: Any = None

    def check_device(self) -> None:
        """Load now where that can fail for want of a GPU, before any image is there.

        Raises:
            UserError: a GPU is asked for and cannot be used.
        """
        if self._device != "CPU":
            self._loaded()

    def spot(self, image: Image.Image, wanted: Callable[[SpottedText], bool] | None = None) -> Spotting:
        """Read the texts of one image.

        Args:
            image: RGB image.
            wanted: recognition ends at the first text for which this is true; None reads all.
        """
        return next(self.spot_all([SpottingRequest(image, wanted)]))

    def spot_all(self, requests: Iterable[SpottingRequest]) -> Iterator[Spotting]:
        """Read the texts of images; results in the order of the requests, equal to those of one at a time.

        Questions are taken as far as one detection needs them, so that images need not be in memory all at once.
        """
        for together in self._gathered(requests):
            yield from self._read_together(together)

    def _read_together(self, requests: Sequence[SpottingRequest]) -> list[Spotting]:
        images = [self._pixels(request.image) for request in requests]
        return [
            self._read_until(pixels, boxes, request.wanted)
            for pixels, boxes, request in zip(images, self._boxes(images), requests, strict=True)
        ]

    def _gathered(self, requests: Iterable[SpottingRequest]) -> Iterator[list[SpottingRequest]]:
        """Questions that are worked on together, few enough for memory."""
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

    def _pixels(self, image: Image.Image) -> np.ndarray:
        """Height x width x BGR, enlarged towards the detector's size where the image is smaller."""
        import cv2
        import numpy as np

        pixels = cv2.cvtColor(np.asarray(image), cv2.COLOR_RGB2BGR)
        height, width = pixels.shape[:2]
        factor = min(self._detector_size / max(height, width), MAX_ENLARGEMENT)
        if factor <= 1 and min(height, width) >= MIN_IMAGE_SIDE:
            return pixels
        size = (max(round(width * factor), MIN_IMAGE_SIDE), max(round(height * factor), MIN_IMAGE_SIDE))
        return cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA)

    def _boxes(self, images: Sequence[np.ndarray]) -> list[list[Any]]:
        """Corner points of each image's text lines, largest first: what a caption repeats is rarely the small print.

        RapidOCR's own steps before and after its network, which sees the images of one shape together.
        """
        import numpy as np

        detector = self._loaded()._load_det_model()
        prepare = detector.get_preprocess()
        boxes: list[list[Any]] = [[] for _ in images]
        size_classes: defaultdict[tuple[int, ...], list[tuple[int, np.ndarray]]] = defaultdict(list)
        for place, pixels in enumerate(images):
            if (
                prepared := _prepared(prepare, pixels)
            ) is not None:  # None: too narrow for the grid, so nothing to find
                size_classes[prepared.shape].append((place, prepared))
        for members in size_classes.values():
            for start in range(0, len(members), self._batch):
                batch = members[start : start + self._batch]
                maps = detector.session(np.concatenate([prepared for _, prepared in batch]))
                for index, (place, _) in enumerate(batch):
                    boxes[place] = _boxes_of(detector, maps[index : index + 1], images[place].shape[:2])
        return boxes

    def _read(self, pixels: np.ndarray, boxes: Sequence[Any]) -> list[SpottedText]:
        engine = self._loaded()
        lines = engine.recognize_txt(engine.crop_text_regions(pixels, boxes))
        return [
            SpottedText(text, float(confidence))
            for text, confidence in zip(lines.txts, lines.scores, strict=True)
            if text.strip() and confidence >= MIN_CONFIDENCE
        ]

    def _loaded(self) -> Any:
        if self._engine is None:
            self._engine = load_engine(
                detector_size=self._detector_size,
                threads=self._threads,
                device=self._device,
                precision=self._precision,
            )
        return self._engine


def _prepared(prepare: Any, pixels: np.ndarray) -> np.ndarray | None:
    """What the detector's own preparation makes of an image, to the last bit: 1 x 3 x height x width; None where nothing is left of it.

    It computes each of 256 levels once, in place of every pixel in float64.
    """
    import cv2
    import numpy as np

    if (resized := prepare.resize(pixels)) is None:
        return None
    levels = np.arange(256, dtype=np.uint8).reshape(1, 256, 1)
    table = np.broadcast_to(prepare.normalize(levels), (1, 256, 3)).astype(np.float32)
    return cv2.LUT(resized, table).transpose(2, 0, 1)[np.newaxis]


def _boxes_of(detector: Any, probabilities: np.ndarray, shape: tuple[int, ...]) -> list[Any]:
    """Boxes in one map of the detector (1 x 1 x height x width), in pixels of an image of that shape."""
    import cv2

    found, _ = detector.postprocess_op(probabilities, shape)
    return sorted(detector.sorted_boxes(found), key=cv2.contourArea, reverse=True)[:MAX_LINES]
