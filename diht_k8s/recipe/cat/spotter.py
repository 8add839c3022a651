"""Text spotting with RapidOCR: a picture in, its texts with confidences out.

The library's defaults enlarge every picture to 736 pixels and pad every line to 320, which is ten times slower at equal
verdicts on web pictures; the settings here were chosen by measuring (see `benchmarks/`). No line is recognised where the
detector finds no box, and recognition ends at the first text that the caller was looking for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from diht_k8s.recipe.cat.matching import SpottedText

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

MIN_CONFIDENCE: Final = 0.3
"""Texts below it are noise and not stored; thresholds of the rule may lie anywhere above."""
MAX_ENLARGEMENT: Final = 3.0
"""A picture below the detector's size is enlarged at most so much: beyond that, letters only get blurred."""
MAX_LINES: Final = 64
"""Lines read of one picture (scanned pages hold hundreds); the largest boxes first."""
LINE_SHAPE: Final = (3, 48, 96)
"""The recogniser's channels, height and LEAST width: short words are not padded to the 320 of the library's default."""
LINES_AT_ONCE: Final = 6
MIN_PICTURE_SIDE: Final = 32
"""The detector's grid."""

State = Literal["done", "stopped_early"]


@dataclass(frozen=True)
class Spotting:
    """What was found in one picture."""

    texts: tuple[SpottedText, ...]
    """all with a confidence of at least `MIN_CONFIDENCE`, largest box first."""
    state: State
    """stopped_early: the wanted text was found, so the remaining boxes were not read."""


class TextSpotter:
    """Detector and recogniser of RapidOCR (PP-OCR weights of its package), loaded at the first picture."""

    def __init__(self, *, detector_size: int = 320, threads: int = 1, cuda: bool = False) -> None:
        """Make a spotter; nothing is loaded yet.

        Args:
            detector_size: longest side in pixels at which text is looked for. Recognition reads the full picture.
            threads: threads of one inference. Several processes of one thread each are faster than one of several.
            cuda: run on a GPU (needs onnxruntime-gpu).
        """
        self._detector_size, self._threads, self._cuda = detector_size, threads, cuda
        self._engine: Any = None

    def spot(self, image: Image.Image, wanted: Callable[[SpottedText], bool] | None = None) -> Spotting:
        """Read the texts of a picture.

        Args:
            image: RGB picture.
            wanted: recognition ends at the first text for which this is true; None reads all.
        """
        pixels = self._pixels(image)
        boxes = self._boxes(pixels)
        if not boxes:
            return Spotting((), "done")
        found: list[SpottedText] = []
        step = LINES_AT_ONCE if wanted is None else 1
        for start in range(0, len(boxes), step):
            for text in self._read(pixels, boxes[start : start + step]):
                found.append(text)
                if wanted is not None and wanted(text):
                    return Spotting(tuple(found), "stopped_early" if start + step < len(boxes) else "done")
        return Spotting(tuple(found), "done")

    def _pixels(self, image: Image.Image) -> np.ndarray:
        """Height x width x BGR, enlarged towards the detector's size where the picture is smaller."""
        import cv2
        import numpy as np

        pixels = np.ascontiguousarray(np.asarray(image)[:, :, ::-1])
        height, width = pixels.shape[:2]
        factor = min(self._detector_size / max(height, width), MAX_ENLARGEMENT)
        if factor <= 1 and min(height, width) >= MIN_PICTURE_SIDE:
            return pixels
        size = (max(round(width * factor), MIN_PICTURE_SIDE), max(round(height * factor), MIN_PICTURE_SIDE))
        return cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA)

    def _boxes(self, pixels: np.ndarray) -> list[Any]:
        """Corner points of the text lines, largest first: what a caption repeats is rarely the small print."""
        import cv2
        from rapidocr.main import RapidOCRError

        try:
            _, found = self._loaded().detect_and_crop(pixels, {})
        except RapidOCRError:  # the library's way to say that there is no box
            return []
        return sorted(found.boxes, key=cv2.contourArea, reverse=True)[:MAX_LINES]

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
            from rapidocr import RapidOCR

            self._engine = RapidOCR(
                params={
                    "Global.log_level": "critical",
                    "Global.use_vertical_padding": False,
                    "Det.limit_type": "max",
                    "Det.limit_side_len": self._detector_size,
                    "Rec.rec_img_shape": list(LINE_SHAPE),
                    "Rec.rec_batch_num": LINES_AT_ONCE,
                    "EngineConfig.onnxruntime.intra_op_num_threads": self._threads,
                    "EngineConfig.onnxruntime.inter_op_num_threads": 1,
                    "EngineConfig.onnxruntime.use_cuda": self._cuda,
                }
            )
        return self._engine
