"""Networks on the CPU by OpenVINO: one compiled per small input shape, in bfloat16 if the CPU supports it.

A network compiled for one shape saves 2 to 4 ms of the 15 ms that a network of dynamic shape takes for an image of 256
x 256, and 6 to 10 ms for a large image (measured with RapidOCR's two networks, shapes in random order). Compiling takes
0.2 s. There are few small shapes, so each gets its own network in a bounded cache of the most recently used ones; all
larger shapes share one network of dynamic shape, compiled once. The networks share the weights as read; each holds its
own copy in the CPU's layout. The shape of an input alone selects its network, so results do not depend on earlier
inputs.

OpenVINO itself is kept from two side effects: its usage statistics and its signal stack.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Literal, cast

if TYPE_CHECKING:
    import numpy as np

Precision = Literal["BF16", "FP32"]

MAX_SHAPES: Final = 16
"""Maximum number of cached networks per model: 25 MB each for the detector, 40 MB for the recogniser. Images whose
longest side is 256 pixels have 15 shapes on the detector's grid.
"""


def import_openvino() -> ModuleType:
    """Import OpenVINO without its usage statistics.

    By default, importing OpenVINO sends a report to its vendor over the network. It does not if the package
    openvino-telemetry is missing, so that package is hidden.
    """
    sys.modules.setdefault("openvino_telemetry", cast(ModuleType, None))
    import openvino

    return openvino


class _Stack(ctypes.Structure):
    """Linux' `stack_t`."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextlib.contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Restore this thread's alternate signal stack at the end of the block.

    OpenVINO's CPU plugin sets its own signal stack on the thread that loads it, and restores the former one when it is
    unloaded. If two plugins are loaded (RapidOCR loads one per network) and the first is unloaded first, the second
    restores freed memory, and the next signal (SIGTERM, for example) kills the process before any handler runs. A
    plugin that finds another stack than its own leaves it alone.
    """
    if sys.platform != "linux":
        yield
        return
    libc, before = ctypes.CDLL(None), _Stack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)


class ShapedNetwork:
    """A drop-in for RapidOCR's sessions: N x 3 x height x width (float32) in, the first output out."""

    def __init__(
        self,
        model: Any,
        *,
        threads: int,
        precision: Precision,
        own_up_to: int,
        width_of: Callable[[int], int] = lambda width: width,
    ) -> None:
        """Compile nothing yet.

        Args:
            model: `openvino.Model` of any shape.
            threads: threads of one inference.
            precision: precision of the computation; see `hint_of`.
            own_up_to: largest input, in values of one image (channels x height x width), whose shape gets its own
                network. The batch size does not count, so it does not change the network of an image.
            width_of: returns the width to which an input of a given width is padded (with 0, on the right). Few widths
                mean few networks.
        """
        self._core, self._model = import_openvino().Core(), model
        self._own_up_to, self._width_of = own_up_to, width_of
        with kept_signal_stack():
            capabilities = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self._settings = {
            "INFERENCE_PRECISION_HINT": hint_of(precision, capabilities),
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            # pinning would put all workers of a machine on its first core
            "ENABLE_CPU_PINNING": False,
        }
        self._requests = OrderedDict[tuple[int, ...], Any]()
        self._dynamic: Any = None

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Run the model on a batch."""
        import numpy as np

        width = batch.shape[-1]
        if (padding := self._width_of(width) - width) > 0:
            batch = np.pad(batch, ((0, 0), (0, 0), (0, 0), (0, padding)))
        return self._request(batch.shape).infer([batch], share_inputs=True)[0]

    def _request(self, shape: tuple[int, ...]) -> Any:
        """The network of a small shape, or the dynamic network."""
        if math.prod(shape[1:]) > self._own_up_to:
            if self._dynamic is None:
                self._dynamic = self._compiled(self._model)
            return self._dynamic
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
    """OpenVINO's name of the precision: f32 if the CPU only emulates bfloat16, which is slower."""
    return "bf16" if precision == "BF16" and "BF16" in capabilities else "f32"


def width_class(width: int) -> int:
    """The width rounded up to one of four per octave (..., 96, 112, 128, 160, 192, 224, 256, 320, ...): at most a
    quarter more.
    """
    step = max(1 << (width - 1).bit_length() >> 3, 1)
    return -(-width // step) * step
