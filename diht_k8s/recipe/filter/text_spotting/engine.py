"""RapidOCR's engine on the device that the run asks for: settings in, loaded detector and recogniser out.

On the processor OpenVINO runs both networks, on a GPU ONNX Runtime does. RapidOCR and ONNX Runtime go on with the processor where
the GPU cannot be used, and say so in a log only. A run that asks for a GPU ends with a message instead: its pods would hold one for
nothing, for days.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from diht_k8s.api.errors import UserError
from diht_k8s.recipe.filter.text_spotting.networks import Precision, ShapedNetwork, import_openvino, width_class
from diht_k8s.recipe.filter.text_spotting.signal_stack import kept_signal_stack

Device = Literal["CPU", "CUDA"]

CUDA_PROVIDER: Final = "CUDAExecutionProvider"
LINE_SHAPE: Final = (3, 48, 96)
"""The recogniser's channels, height and LEAST width: short words are not padded to the 320 of the library's default."""
OWN_IMAGE: Final = 3 * 320 * 320
"""Numbers of the largest image whose shape has a detector of its own. A larger one takes 22 to 29 % longer in the open network
(measured at 512 pixels), but there are too many shapes of such images to keep."""
OWN_LINE: Final = 3 * 48 * 512
"""Numbers of the longest line whose width class has a recogniser of its own: eleven classes, so all are kept. A longer line takes at
most 8 % longer in the open network, and to the last bit says the same."""
LINES_AT_ONCE: Final[dict[Device, int]] = {"CPU": 1, "CUDA": 6}
"""Lines in one run of the recogniser at most. On the processor together takes as long as one by one, and each keeps its own width."""
_ON_CUDA: Final = {
    "EngineConfig.onnxruntime.inter_op_num_threads": 1,
    "EngineConfig.onnxruntime.use_cuda": True,
    # one algorithm for every shape: a search would be made anew for each width of a line, and may end differently each time
    "EngineConfig.onnxruntime.cuda_ep_cfg.cudnn_conv_algo_search": "DEFAULT",
    # fp32 as on the processor: confidences are compared with thresholds
    "EngineConfig.onnxruntime.cuda_ep_cfg.use_tf32": 0,
}
_FIELD: Final = "spec.filter.textSpotting.device: CUDA"


def load_engine(*, detector_size: int, threads: int, device: Device, precision: Precision) -> Any:
    """A `RapidOCR` with the settings of the filter, its detector and recogniser loaded.

    Args:
        detector_size: longest side in pixels at which text is looked for.
        threads: threads of one inference.
        device: where both networks run.
        precision: what a processor may compute in. A GPU computes in fp32.

    Raises:
        UserError: a GPU is asked for, and ONNX Runtime has no CUDA or cannot use it.
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
            "Rec.engine_type": runtime,
            "Rec.rec_img_shape": list(LINE_SHAPE),
            "Rec.rec_batch_num": LINES_AT_ONCE[device],
            "EngineConfig.openvino.inference_num_threads": threads,
            "EngineConfig.onnxruntime.intra_op_num_threads": threads,
            **(_ON_CUDA if device == "CUDA" else {}),
        }
    )
    if device == "CUDA":
        _check_sessions(engine)
    else:
        _compile_by_shape(engine, threads, precision)
    return engine


def _compile_by_shape(engine: Any, threads: int, precision: Precision) -> None:
    """Put networks for small shapes in the place of RapidOCR's sessions, which run one of open shape in a precision of OpenVINO's choice."""
    with kept_signal_stack():
        detector, recogniser = engine._load_det_model(), engine._load_rec_model()
    detector.session = ShapedNetwork(detector.session.model, threads=threads, precision=precision, own_up_to=OWN_IMAGE)
    recogniser.session = ShapedNetwork(
        recogniser.session.model, threads=threads, precision=precision, own_up_to=OWN_LINE, width_of=width_class
    )


def _check_provider(device: Device) -> None:
    """Whether there is an ONNX Runtime for the device; its CUDA libraries are loaded where NVIDIA's Python packages hold them."""
    if device == "CPU":
        return
    try:
        import onnxruntime
    except ImportError:
        onnxruntime = None
    if onnxruntime is None or CUDA_PROVIDER not in onnxruntime.get_available_providers():
        raise UserError(
            f"{_FIELD}, but no ONNX Runtime with CUDA is installed: install onnxruntime-gpu in the image, or say CPU"
        )
    onnxruntime.preload_dlls()


def _check_sessions(engine: Any) -> None:
    """Whether both networks have come to lie on the GPU."""
    for model in (engine._load_det_model(), engine._load_rec_model()):
        if model.session.session.get_providers()[0] != CUDA_PROVIDER:
            raise UserError(
                f"{_FIELD}, but ONNX Runtime cannot use the GPU: give the pods one (resources: nvidia.com/gpu), "
                "see that CUDA and cuDNN fit onnxruntime-gpu, or say CPU"
            )
