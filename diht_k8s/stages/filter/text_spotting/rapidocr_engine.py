"""RapidOCR's engine on the requested device: its networks, and the texts of lines in any direction.

OpenVINO runs the networks on the CPU, ONNX Runtime on a GPU. If the GPU cannot be used, RapidOCR and ONNX Runtime
continue on the CPU and only log it. A run that asks for a GPU fails instead, because its pods would otherwise hold an
idle GPU for days.

On the CPU one network is compiled per small input shape, in bfloat16 if the CPU supports it. That saves 2 to 4 ms of
the 15 ms that a network of dynamic shape takes for an image of 256 x 256, and 6 to 10 ms for a large image (measured
with RapidOCR's two networks, shapes in random order). Compiling takes 0.2 s. There are few small shapes, so each gets
its own network in a bounded cache of the most recently used ones; all larger shapes share one network of dynamic shape,
compiled once. The networks share the weights as read; each holds its own copy in the CPU's layout. The shape of an
input alone selects its network, so results do not depend on earlier inputs. OpenVINO itself is kept from two side
effects: its usage statistics and its signal stack.

A box says where a line lies, not where it begins. RapidOCR's crop turns tall boxes to the left, so text that runs
upwards comes out upside down, and so does a wide line that was turned by about 180 degrees. RapidOCR's defaults ask its
orientation classifier about every line. Here it is asked about tall lines, and about lines that were read with doubt: a
recogniser that sees a line upside down is rarely sure of its text. Upright lines cost nothing more.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, cast

from diht_k8s.api.errors import UserError
from diht_k8s.stages.filter.text_spotting.matching import SpottedText

if TYPE_CHECKING:
    import numpy as np

Precision = Literal["BF16", "FP32"]

THREADS: Final = 1
"""Of one inference: several processes of one thread each are faster than one of several."""
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
        precision: Precision,
        own_up_to: int,
        width_of: Callable[[int], int] = lambda width: width,
    ) -> None:
        """Compile nothing yet.

        Args:
            model: `openvino.Model` of any shape.
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
            "INFERENCE_NUM_THREADS": THREADS,
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


Device = Literal["CPU", "CUDA"]

CUDA_PROVIDER: Final = "CUDAExecutionProvider"
LINE_SHAPE: Final = (3, 48, 96)
"""Channels, height and MINIMUM width of the recogniser's input. The library's default pads short words to a width of
320.
"""
OWN_IMAGE: Final = 3 * 320 * 320
"""Largest input, in values, whose shape gets its own detector network. Larger images take 22 to 29 % longer in the
dynamic network (measured at 512 pixels), but have too many shapes to keep a network for each.
"""
OWN_LINE: Final = 3 * 48 * 512
"""Largest input, in values, whose width class gets its own recogniser network: eleven classes, so all are kept. Longer
lines take at most 8 % longer in the dynamic network, with bit-equal results.
"""
LINES_AT_ONCE: Final[dict[Device, int]] = {"CPU": 1, "CUDA": 6}
"""Maximum number of lines in one run of the recogniser. A batch saves no time on the CPU, and single lines keep their
own width.
"""
_ON_CUDA: Final = {
    "EngineConfig.onnxruntime.inter_op_num_threads": THREADS,
    "EngineConfig.onnxruntime.use_cuda": True,
    # one algorithm for every shape: a search would run again for each line width, and its result may vary
    "EngineConfig.onnxruntime.cuda_ep_cfg.cudnn_conv_algo_search": "DEFAULT",
    # fp32 as on the CPU, because confidences are compared with thresholds
    "EngineConfig.onnxruntime.cuda_ep_cfg.use_tf32": 0,
}
_FIELD: Final = "spec.filter.textSpotting.device: CUDA"


def load_engine(*, detector_size: int, device: Device, precision: Precision) -> Any:
    """A `RapidOCR` with the filter's settings; its three models are loaded.

    Args:
        detector_size: longest side in pixels of the image that the detector sees.
        device: where the networks run.
        precision: precision on the CPU; a GPU computes in fp32.

    Raises:
        UserError: `device` is CUDA, and ONNX Runtime lacks CUDA or cannot use it.
    """
    _check_provider(device)
    from rapidocr import EngineType, RapidOCR

    runtime = EngineType.ONNXRUNTIME
    if device == "CPU":
        import_openvino()  # before RapidOCR does
        runtime = EngineType.OPENVINO
    engine = RapidOCR(
        params={
            "Global.log_level": "critical",
            "Global.use_vertical_padding": False,
            "Det.engine_type": runtime,
            "Det.limit_type": "max",
            "Det.limit_side_len": detector_size,
            "Cls.engine_type": runtime,
            "Cls.cls_batch_num": LINES_AT_ONCE[device],
            "Rec.engine_type": runtime,
            "Rec.rec_img_shape": list(LINE_SHAPE),
            "Rec.rec_batch_num": LINES_AT_ONCE[device],
            "EngineConfig.openvino.inference_num_threads": THREADS,
            "EngineConfig.onnxruntime.intra_op_num_threads": THREADS,
            **(_ON_CUDA if device == "CUDA" else {}),
        }
    )
    if device == "CUDA":
        _check_sessions(engine)
    else:
        _compile_by_shape(engine, precision)
    return engine


def _compile_by_shape(engine: Any, precision: Precision) -> None:
    """Replace RapidOCR's sessions, which run one network of dynamic shape in a precision that OpenVINO picks."""
    with kept_signal_stack():
        detector, classifier, recogniser = _models(engine)
    detector.session = ShapedNetwork(detector.session.model, precision=precision, own_up_to=OWN_IMAGE)
    classifier.session = ShapedNetwork(classifier.session.model, precision=precision, own_up_to=OWN_IMAGE)
    recogniser.session = ShapedNetwork(
        recogniser.session.model, precision=precision, own_up_to=OWN_LINE, width_of=width_class
    )


def _models(engine: Any) -> tuple[Any, Any, Any]:
    """Detector, orientation classifier and recogniser."""
    return engine._load_det_model(), engine._load_cls_model(), engine._load_rec_model()


def _check_provider(device: Device) -> None:
    """Check that ONNX Runtime supports the device, and load its CUDA libraries from NVIDIA's Python packages."""
    if device == "CPU":
        return
    try:
        import onnxruntime
    except ImportError:
        onnxruntime = None
    if onnxruntime is None or CUDA_PROVIDER not in onnxruntime.get_available_providers():
        raise UserError(
            f"{_FIELD}, but no ONNX Runtime with CUDA is installed: "
            "install onnxruntime-gpu in the image, or set device: CPU"
        )
    onnxruntime.preload_dlls()


def _check_sessions(engine: Any) -> None:
    """Check that all networks run on the GPU."""
    for model in _models(engine):
        if model.session.session.get_providers()[0] != CUDA_PROVIDER:
            raise UserError(
                f"{_FIELD}, but ONNX Runtime cannot use the GPU: give the pods one (resources: nvidia.com/gpu), "
                "check that CUDA and cuDNN match onnxruntime-gpu, or set device: CPU"
            )


TALL: Final = 1.5
"""Ratio of height to width from which RapidOCR turns a line when it cuts it out."""
DOUBTFUL: Final = 0.9
"""Confidence below which a line is read the other way round as well. On 60 lines turned by 60 to 270 degrees the wrong
way gave at most 0.89, the right way at least 0.96.
"""
SURE: Final = 0.9
"""Probability from which the classifier's word counts without a second reading; RapidOCR's own threshold."""


class Orientation(NamedTuple):
    """The classifier's answer about a line."""

    upside_down: bool
    probability: float
    """of that answer, 0.5 to 1."""


def read_lines(engine: Any, pixels: np.ndarray, boxes: Sequence[Any]) -> list[SpottedText]:
    """The text of each box, one for one; "" where nothing is legible.

    Args:
        engine: `RapidOCR` whose recogniser and classifier are loaded.
        pixels: image, height x width x 3 (BGR, uint8).
        boxes: corner points of the lines (4 x 2), clockwise from the upper left.
    """
    lines = list(engine.crop_text_regions(pixels, boxes))
    tall = [place for place, box in enumerate(boxes) if _is_tall(box)]
    known = dict(zip(tall, _orientations(engine, [lines[place] for place in tall]), strict=True))
    for place, orientation in known.items():
        if orientation.upside_down:
            lines[place] = _turned_over(lines[place])
    texts = _recognised(engine, lines)
    doubtful = [place for place, text in enumerate(texts) if text.confidence < DOUBTFUL]
    wide = [place for place in doubtful if place not in known]
    asked = dict(zip(wide, _orientations(engine, [lines[place] for place in wide]), strict=True))
    again = [place for place in doubtful if not _lies_right(known.get(place), asked.get(place))]
    for place, text in zip(again, _recognised(engine, [_turned_over(lines[place]) for place in again]), strict=True):
        texts[place] = max(texts[place], text, key=lambda one: one.confidence)
    return texts


def _lies_right(turned: Orientation | None, as_cut: Orientation | None) -> bool:
    """Whether the classifier is sure of the direction in which a line was read: a tall one as it said, another as
    cut.
    """
    if turned is not None:
        return turned.probability >= SURE
    return as_cut is not None and not as_cut.upside_down and as_cut.probability >= SURE


def _is_tall(box: np.ndarray) -> bool:
    """Whether RapidOCR turns the line, by its own measure of the box."""
    import numpy as np

    sides = [int(max(np.linalg.norm(box[a] - box[b]), np.linalg.norm(box[c] - box[d]))) for a, b, c, d in _SIDES]
    return sides[1] >= TALL * sides[0]


_SIDES: Final = ((0, 1, 2, 3), (0, 3, 1, 2))
"""Corners of the two sides that make a box's width, and its height."""


def _orientations(engine: Any, lines: Sequence[np.ndarray]) -> list[Orientation]:
    found = engine._load_cls_model()(list(lines)).cls_res if lines else []
    return [Orientation(label == "180", float(probability)) for label, probability in found]


def _recognised(engine: Any, lines: Sequence[np.ndarray]) -> list[SpottedText]:
    if not lines:
        return []
    read = engine.recognize_txt(list(lines))
    return [SpottedText(text, float(confidence)) for text, confidence in zip(read.txts, read.scores, strict=True)]


def _turned_over(line: np.ndarray) -> np.ndarray:
    """The line turned by 180 degrees."""
    import cv2

    return cv2.rotate(line, cv2.ROTATE_180)
