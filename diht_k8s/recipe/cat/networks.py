"""Networks on the processor: OpenVINO compiles one for each shape of its input, in bfloat16 where the processor computes in that.

A network that is compiled for one shape takes three quarters of the time of one for all shapes (measured on RapidOCR's two, shapes in
random order), hence a bounded number of compiled ones, the last used. They share the weights as they were read; each has its own
copy as the processor wants them. What a shape's network computes does not depend on which others there are.
"""

from __future__ import annotations

import math
import sys
from collections import OrderedDict
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Literal, cast

if TYPE_CHECKING:
    import numpy as np

Precision = Literal["BF16", "FP32"]

MAX_SHAPES: Final = 12
"""Compiled networks that are kept of one model: 21 MB each for the detector at 256 pixels, 33 MB for the recogniser."""
MAX_ELEMENTS: Final = 3 * 1_000_000
"""Numbers in the inputs of all networks that are kept; the one in use may have more. Memory grows with them where shapes are large."""


def import_openvino() -> ModuleType:
    """OpenVINO without its usage statistics: to import it as it comes reports that to its maker, over the network and unasked.

    It does without the package that would send them (openvino-telemetry) where that is not to be had, so it gets to see none.
    """
    sys.modules.setdefault("openvino_telemetry", cast(ModuleType, None))
    import openvino

    return openvino


class ShapedNetwork:
    """A model as RapidOCR calls its sessions: N x 3 x height x width (float32) in, the first output out."""

    def __init__(
        self, model: Any, *, threads: int, precision: Precision, width_of: Callable[[int], int] = lambda width: width
    ) -> None:
        """Nothing is compiled yet.

        Args:
            model: `openvino.Model` of any shape.
            threads: threads of one inference.
            precision: what it may compute in; see `hint_of`.
            width_of: the width that an input is padded to (with 0, on the right) for its own; few widths are few networks.
        """
        self._core, self._model, self._width_of = import_openvino().Core(), model, width_of
        self._settings = {
            "INFERENCE_PRECISION_HINT": hint_of(precision, self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")),
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            # workers of one machine would all be pinned to its first core
            "ENABLE_CPU_PINNING": False,
        }
        self._requests = OrderedDict[tuple[int, ...], Any]()

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """What the model says of a batch."""
        import numpy as np

        width = batch.shape[-1]
        if (padding := self._width_of(width) - width) > 0:
            batch = np.pad(batch, ((0, 0), (0, 0), (0, 0), (0, padding)))
        return self._request(batch.shape).infer([batch], share_inputs=True)[0]

    def _request(self, shape: tuple[int, ...]) -> Any:
        request = self._requests.pop(shape, None)
        if request is None:
            model = self._model.clone()
            model.reshape(list(shape))
            request = self._core.compile_model(model, "CPU", self._settings).create_infer_request()
        self._requests[shape] = request
        while len(self._requests) > 1 and self._too_many():
            self._requests.popitem(last=False)
        return request

    def _too_many(self) -> bool:
        return len(self._requests) > MAX_SHAPES or sum(map(math.prod, self._requests)) > MAX_ELEMENTS


def hint_of(precision: Precision, capabilities: list[str]) -> str:
    """OpenVINO's name of the precision to compute in, f32 where the processor only imitates bfloat16, which is slower than that."""
    return "bf16" if precision == "BF16" and "BF16" in capabilities else "f32"


def width_class(width: int) -> int:
    """The next of four widths an octave (..., 96, 112, 128, 160, 192, 224, 256, 320, ...): at most a quarter more."""
    step = max(1 << (width - 1).bit_length() >> 3, 1)
    return -(-width // step) * step
