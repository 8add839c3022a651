"""RapidOCR's engine on the requested device: settings in, loaded detector, orientation classifier and recogniser out.

OpenVINO runs the networks on the CPU, ONNX Runtime on a GPU. If the GPU cannot be used, RapidOCR and ONNX Runtime
continue on the CPU and only log it. A run that asks for a GPU fails instead, because its pods would otherwise hold an
idle GPU for days.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from diht_k8s.api.errors import UserError
from diht_k8s.stages.filter.text_spotting.openvino_networks import (
    Precision,
    ShapedNetwork,
    import_openvino,
    kept_signal_stack,
    width_class,
)

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
    "EngineConfig.onnxruntime.inter_op_num_threads": 1,
    "EngineConfig.onnxruntime.use_cuda": True,
    # one algorithm for every shape: a search would run again for each line width, and its result may vary
    "EngineConfig.onnxruntime.cuda_ep_cfg.cudnn_conv_algo_search": "DEFAULT",
    # fp32 as on the CPU, because confidences are compared with thresholds
    "EngineConfig.onnxruntime.cuda_ep_cfg.use_tf32": 0,
}
_FIELD: Final = "spec.filter.textSpotting.device: CUDA"


def load_engine(*, detector_size: int, threads: int, device: Device, precision: Precision) -> Any:
    """A `RapidOCR` with the filter's settings; its three models are loaded.

    Args:
        detector_size: longest side in pixels of the image that the detector sees.
        threads: threads of one inference.
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
    """Replace RapidOCR's sessions, which run one network of dynamic shape in a precision that OpenVINO picks."""
    with kept_signal_stack():
        detector, classifier, recogniser = _models(engine)
    detector.session = ShapedNetwork(detector.session.model, threads=threads, precision=precision, own_up_to=OWN_IMAGE)
    classifier.session = ShapedNetwork(
        classifier.session.model, threads=threads, precision=precision, own_up_to=OWN_IMAGE
    )
    recogniser.session = ShapedNetwork(
        recogniser.session.model, threads=threads, precision=precision, own_up_to=OWN_LINE, width_of=width_class
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
