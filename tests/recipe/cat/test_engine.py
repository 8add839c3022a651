"""The OCR engine's settings and its device; a GPU that is not there is an error, never the processor instead."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import onnxruntime
import pytest

from diht_k8s.api.errors import UserError
from diht_k8s.recipe.cat import shards
from diht_k8s.recipe.cat.engine import CUDA_PROVIDER, load_engine
from diht_k8s.recipe.cat.spotter import BATCH_OF, TextSpotter
from tests.recipe.cat.shards import filter_with, run_of, write_shards

CPU_PROVIDER = "CPUExecutionProvider"
ONNX = "EngineConfig.onnxruntime"


class FakeEngine:
    """What RapidOCR is given, and networks that say where they lie."""

    given: dict[str, Any]

    def __init__(self, provider: str) -> None:
        self._model = SimpleNamespace(
            session=SimpleNamespace(session=SimpleNamespace(get_providers=lambda: [provider, CPU_PROVIDER]))
        )

    def __call__(self, *, params: dict[str, Any]) -> FakeEngine:
        self.given = params
        return self

    def _load_det_model(self) -> Any:
        return self._model

    _load_rec_model = _load_det_model


def fake(monkeypatch: pytest.MonkeyPatch, provider: str, available: list[str]) -> FakeEngine:
    engine = FakeEngine(provider)
    monkeypatch.setattr("rapidocr.RapidOCR", engine)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
    return engine


@pytest.mark.parametrize(("device", "cuda"), [("CPU", False), ("CUDA", True)])
def test_device_of_the_run_is_what_the_library_is_told(
    device: Literal["CPU", "CUDA"], cuda: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = fake(monkeypatch, CUDA_PROVIDER if cuda else CPU_PROVIDER, [CUDA_PROVIDER, CPU_PROVIDER])
    assert load_engine(detector_size=224, threads=2, device=device) is engine
    expected = {f"{ONNX}.use_cuda": cuda, "Det.limit_side_len": 224, f"{ONNX}.intra_op_num_threads": 2}
    assert {name: engine.given[name] for name in expected} == expected


def test_settings_for_a_gpu_reach_its_provider() -> None:
    onnx = load_engine(detector_size=96, threads=1, device="CPU").cfg.EngineConfig.onnxruntime
    assert (onnx.cuda_ep_cfg.cudnn_conv_algo_search, onnx.cuda_ep_cfg.use_tf32, onnx.use_cuda) == ("DEFAULT", 0, False)


def test_gpu_without_a_runtime_for_it_is_refused_with_what_to_do() -> None:
    assert CUDA_PROVIDER not in onnxruntime.get_available_providers(), "the tests run with the processor's package"
    with pytest.raises(UserError, match=r"textSpotting\.device: CUDA.*install onnxruntime-gpu in place of onnxruntime"):
        TextSpotter(device="CUDA").check_device()


def test_gpu_that_the_runtime_cannot_use_is_refused_and_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, CPU_PROVIDER, [CUDA_PROVIDER, CPU_PROVIDER])
    with pytest.raises(UserError, match=r"cannot use the GPU: give the pods one"):
        TextSpotter(device="CUDA").check_device()


def test_processor_loads_nothing_before_the_first_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = fake(monkeypatch, CPU_PROVIDER, [CPU_PROVIDER])
    TextSpotter().check_device()
    assert not hasattr(engine, "given")


def test_pictures_are_batched_on_a_gpu_only() -> None:
    assert (BATCH_OF["CPU"], BATCH_OF["CUDA"] > 1) == (1, True)


@pytest.mark.parametrize("mode", ["Drop", "ScoreOnly"])
def test_run_on_a_missing_gpu_ends_before_a_shard_is_opened(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*arguments: object) -> None:
        raise AssertionError("a shard was opened")

    monkeypatch.setattr(shards, "read_pairs", opened)
    run = run_of(tmp_path / "out", write_shards(tmp_path / "in"), {"textSpotting": {"mode": mode, "device": "CUDA"}})
    with pytest.raises(UserError, match="no CUDA"):
        filter_with(run)


def test_run_that_spots_no_text_needs_no_gpu(tmp_path: Path) -> None:
    rules = {"textSpotting": {"mode": "Disabled", "device": "CUDA"}}
    assert filter_with(run_of(tmp_path / "out", write_shards(tmp_path / "in"), rules)) is not None
