"""The OCR engine's settings and its device; a missing GPU is an error, never a fallback to the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest
from rapidocr import EngineType, RapidOCR

from diht_k8s.api.errors import UserError
from diht_k8s.stages.filter import shard_filter
from diht_k8s.stages.filter.text_spotting.rapidocr_engine import (
    CUDA_PROVIDER,
    Device,
    ShapedNetwork,
    import_openvino,
    load_engine,
)
from diht_k8s.stages.filter.text_spotting.spotter import TextSpotter
from tests.recipe.filter.shards import filter_with, run_of, write_shards

CPU_PROVIDER = "CPUExecutionProvider"
ONNX = "EngineConfig.onnxruntime"


class FakeEngine:
    """Records RapidOCR's settings, and has networks that report their device."""

    given: dict[str, Any]

    def __init__(self, provider: str) -> None:
        self._models = [
            SimpleNamespace(
                session=SimpleNamespace(
                    model=None, session=SimpleNamespace(get_providers=lambda: [provider, CPU_PROVIDER])
                )
            )
            for _ in range(3)
        ]

    def __call__(self, *, params: dict[str, Any]) -> FakeEngine:
        self.given = params
        return self

    def _load_det_model(self) -> Any:
        return self._models[0]

    def _load_rec_model(self) -> Any:
        return self._models[1]

    def _load_cls_model(self) -> Any:
        return self._models[2]


def fake(monkeypatch: pytest.MonkeyPatch, provider: str, available: list[str]) -> FakeEngine:
    engine = FakeEngine(provider)
    monkeypatch.setattr("rapidocr.RapidOCR", engine)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
    return engine


ON_CPU = {
    **{f"{model}.engine_type": EngineType.OPENVINO for model in ("Det", "Cls", "Rec")},
    "Cls.cls_batch_num": 1,
    "Rec.rec_batch_num": 1,
}
ON_CUDA = {
    **{f"{model}.engine_type": EngineType.ONNXRUNTIME for model in ("Det", "Cls", "Rec")},
    f"{ONNX}.use_cuda": True,
    f"{ONNX}.intra_op_num_threads": 1,
}


@pytest.mark.parametrize(("device", "expected"), [("CPU", ON_CPU), ("CUDA", ON_CUDA)])
def test_device_of_the_run_is_passed_to_the_library(
    device: Device, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = fake(monkeypatch, CUDA_PROVIDER if device == "CUDA" else CPU_PROVIDER, [CUDA_PROVIDER, CPU_PROVIDER])
    monkeypatch.setattr(
        "diht_k8s.stages.filter.text_spotting.rapidocr_engine.ShapedNetwork", lambda *given, **settings: None
    )
    assert load_engine(detector_size=224, device=device, precision="BF16") is engine
    expected = {**expected, "Det.limit_side_len": 224, "EngineConfig.openvino.inference_num_threads": 1}
    assert {name: engine.given.get(name) for name in expected} == expected


def test_settings_for_a_gpu_reach_its_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        engine = fake(patch, CUDA_PROVIDER, [CUDA_PROVIDER])
        load_engine(detector_size=96, device="CUDA", precision="BF16")
    onnx = RapidOCR(params=engine.given).cfg.EngineConfig.onnxruntime
    assert (onnx.cuda_ep_cfg.cudnn_conv_algo_search, onnx.cuda_ep_cfg.use_tf32, onnx.use_cuda) == ("DEFAULT", 0, True)


@pytest.mark.parametrize(("precision", "element"), [("BF16", "bf16"), ("FP32", "f32")])
def test_all_networks_compute_in_the_precision_of_the_run(precision: Any, element: str) -> None:
    native = "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    engine = load_engine(detector_size=96, device="CPU", precision=precision)
    for model in (engine._load_det_model(), engine._load_cls_model(), engine._load_rec_model()):
        session = model.session
        assert isinstance(session, ShapedNetwork)
        assert session._settings["INFERENCE_PRECISION_HINT"] == (element if native else "f32")


def test_cpu_needs_no_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    engine = load_engine(detector_size=96, device="CPU", precision="BF16")
    assert isinstance(engine._load_rec_model().session, ShapedNetwork)


def test_spotting_sends_no_report_to_the_vendor_of_the_runtime(tmp_path: Path) -> None:
    program = (
        "import sys; from diht_k8s.stages.filter.text_spotting.rapidocr_engine import load_engine; "
        "load_engine(detector_size=96, device='CPU', precision='BF16'); "
        "print('openvino' in sys.modules, [name for name in sys.modules if name.startswith('openvino_telemetry.')])"
    )
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert (done.stdout.split(maxsplit=1), list(tmp_path.iterdir())) == (["True", "[]\n"], [])


def test_alphabet_equals_the_one_that_onnx_runtime_finds_in_the_model() -> None:
    engine = load_engine(detector_size=96, device="CPU", precision="BF16")
    mine, theirs = engine._load_rec_model(), RapidOCR(params={"Global.log_level": "critical"})._load_rec_model()
    assert mine.postprocess_op.character == theirs.postprocess_op.character


def test_gpu_that_the_runtime_cannot_use_is_refused_and_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, CPU_PROVIDER, [CUDA_PROVIDER, CPU_PROVIDER])
    with pytest.raises(UserError, match=r"cannot use the GPU: give the pods one"):
        TextSpotter(device="CUDA").check_device()


@pytest.mark.parametrize("mode", ["Drop", "ScoreOnly"])
def test_run_on_a_missing_gpu_ends_before_a_shard_is_opened(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*arguments: object) -> None:
        raise AssertionError("a shard was opened")

    monkeypatch.setattr(shard_filter, "read_pairs", opened)
    run = run_of(tmp_path / "out", write_shards(tmp_path / "in"), {"textSpotting": {"mode": mode, "device": "CUDA"}})
    with pytest.raises(
        UserError, match=r"no ONNX Runtime with CUDA.*install onnxruntime-gpu in the image, or set device: CPU"
    ):
        filter_with(run)


def test_run_that_spots_no_text_needs_no_gpu(tmp_path: Path) -> None:
    rules = {"textSpotting": {"mode": "Disabled", "device": "CUDA"}}
    filter_with(run_of(tmp_path / "out", write_shards(tmp_path / "in"), rules))
