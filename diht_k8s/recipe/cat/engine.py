"""RapidOCR's engine on the device that the run asks for: settings in, loaded detector and recogniser out.

RapidOCR and ONNX Runtime go on with the processor where the GPU cannot be used, and say so in a log only. A run that asks for a
GPU ends with a message instead: its pods would hold one for nothing, for days.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from diht_k8s.api.errors import UserError

Device = Literal["CPU", "CUDA"]

CUDA_PROVIDER: Final = "CUDAExecutionProvider"
LINE_SHAPE: Final = (3, 48, 96)
"""The recogniser's channels, height and LEAST width: short words are not padded to the 320 of the library's default."""
LINES_AT_ONCE: Final = 6
_FIELD: Final = "spec.filter.textSpotting.device: CUDA"


def load_engine(*, detector_size: int, threads: int, device: Device) -> Any:
    """A `RapidOCR` with the settings of the filter.

    Args:
        detector_size: longest side in pixels at which text is looked for.
        threads: threads of one inference.
        device: where both networks run.

    Raises:
        UserError: a GPU is asked for, and ONNX Runtime has no CUDA or cannot use it.
    """
    _check_provider(device)
    from rapidocr import RapidOCR

    engine = RapidOCR(
        params={
            "Global.log_level": "critical",
            "Global.use_vertical_padding": False,
            "Det.limit_type": "max",
            "Det.limit_side_len": detector_size,
            "Rec.rec_img_shape": list(LINE_SHAPE),
            "Rec.rec_batch_num": LINES_AT_ONCE,
            "EngineConfig.onnxruntime.intra_op_num_threads": threads,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            "EngineConfig.onnxruntime.use_cuda": device == "CUDA",
            # one algorithm for every shape: a search would be made anew for each width of a line, and may end differently each time
            "EngineConfig.onnxruntime.cuda_ep_cfg.cudnn_conv_algo_search": "DEFAULT",
            # fp32 as on the processor: confidences are compared with thresholds
            "EngineConfig.onnxruntime.cuda_ep_cfg.use_tf32": 0,
        }
    )
    if device == "CUDA":
        _check_sessions(engine)
    return engine


def _check_provider(device: Device) -> None:
    """Whether ONNX Runtime was built for the device; its CUDA libraries are loaded where NVIDIA's Python packages hold them."""
    if device == "CPU":
        return
    import onnxruntime

    if CUDA_PROVIDER not in onnxruntime.get_available_providers():
        raise UserError(
            f"{_FIELD}, but the installed ONNX Runtime has no CUDA: "
            "install onnxruntime-gpu in place of onnxruntime in the image, or say CPU"
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
