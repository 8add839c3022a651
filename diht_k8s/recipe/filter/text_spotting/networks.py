"""Networks on the processor: OpenVINO compiles one for each small shape of its input, in bfloat16 where the processor computes in that.

A network that is compiled for one shape saves 2 to 4 ms a run over one for all shapes, of 15 for an image of 256 x 256, and 6 to 10
of a large image (measured on RapidOCR's two, shapes in random order). Compiling takes 0.2 s. So small shapes, of which there are few,
have networks of their own, a bounded number of them, the last used; all others share one of open shape, compiled once.
They share the weights as they were read; each has its own copy as the processor wants them. Which network an input goes to depends on
its shape alone, and what that computes on nothing else that it was given, so neither do results.
"""

from __future__ import annotations

import math
import sys
from collections import OrderedDict
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from diht_k8s.recipe.filter.text_spotting.signal_stack import kept_signal_stack

if TYPE_CHECKING:
    import numpy as np

Precision = Literal["BF16", "FP32"]

MAX_SHAPES: Final = 16
"""Networks of one shape that are kept of one model: 25 MB each for the detector, 40 MB for the recogniser. Images whose longest side
is 256 pixels have 15 shapes on the detector's grid."""


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
        self,
        model: Any,
        *,
        threads: int,
        precision: Precision,
        own_up_to: int,
        width_of: Callable[[int], int] = lambda width: width,
    ) -> None:
        """Nothing is compiled yet.

        Args:
            model: `openvino.Model` of any shape.
            threads: threads of one inference.
            precision: what it may compute in; see `hint_of`.
            own_up_to: a shape has a network of its own up to so many numbers in one image (channels x height x width), however
                many images lie in the batch: companions do not change what an image's network is.
            width_of: the width that an input is padded to (with 0, on the right) for its own; few widths are few networks.
        """
        self._core, self._model = import_openvino().Core(), model
        self._own_up_to, self._width_of = own_up_to, width_of
        with kept_signal_stack():
            capabilities = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self._settings = {
            "INFERENCE_PRECISION_HINT": hint_of(precision, capabilities),
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            # workers of one machine would all be pinned to its first core
            "ENABLE_CPU_PINNING": False,
        }
        self._requests = OrderedDict[tuple[int, ...], Any]()
        self._open: Any = None

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """What the model says of a batch."""
        import numpy as np

        width = batch.shape[-1]
        if (padding := self._width_of(width) - width) > 0:
            batch = np.pad(batch, ((0, 0), (0, 0), (0, 0), (0, padding)))
        return self._request(batch.shape).infer([batch], share_inputs=True)[0]

    def _request(self, shape: tuple[int, ...]) -> Any:
        """The shape's own network where it is small, the open one else."""
        if math.prod(shape[1:]) > self._own_up_to:
            if self._open is None:
                self._open = self._compiled(self._model)
            return self._open
        request = self._requests.pop(shape, None)
        if request is None:
            model = self._model.clone()
            model.reshape(list(shape))
            request = self._compiled(model)
        self._requests[shape] = request
        if len(self._requests) > MAX_SHAPES:
            self._requests.popitem(last=False)
        return request

    def _compiled(self, model: Any) -> Any:
        return self._core.compile_model(model, "CPU", self._settings).create_infer_request()


def hint_of(precision: Precision, capabilities: list[str]) -> str:
    """OpenVINO's name of the precision to compute in, f32 where the processor only imitates bfloat16, which is slower than that."""
    return "bf16" if precision == "BF16" and "BF16" in capabilities else "f32"


def width_class(width: int) -> int:
    """The next of four widths an octave (..., 96, 112, 128, 160, 192, 224, 256, 320, ...): at most a quarter more."""
    step = max(1 << (width - 1).bit_length() >> 3, 1)
    return -(-width // step) * step
