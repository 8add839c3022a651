"""The OCR engine's settings and its device (a missing GPU is an error, never a fallback to the CPU), and its networks
per small shape: few are kept, results do not depend on earlier inputs, bfloat16 is used only where it is native.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import rapidocr
from rapidocr import EngineType, RapidOCR

from diht_k8s.api.errors import UserError
from diht_k8s.stages.filter import shard_filter
from diht_k8s.stages.filter.text_spotting import rapidocr_engine
from diht_k8s.stages.filter.text_spotting.rapidocr_engine import (
    CUDA_PROVIDER,
    LINE_SHAPE,
    OWN_IMAGE,
    OWN_LINE,
    Device,
    Precision,
    ShapedNetwork,
    hint_of,
    import_openvino,
    load_engine,
    width_class,
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


openvino = import_openvino()
MODELS = Path(rapidocr.__file__).parent / "models"
DETECTOR, RECOGNISER = ("PP-OCRv6_det_small.onnx", "PP-OCRv6_rec_small.onnx")


def model(name: str) -> Any:
    return openvino.Core().read_model(MODELS / name)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


@pytest.mark.parametrize(
    ("precision", "capabilities", "hint"),
    [
        ("BF16", ["BF16", "FP32", "INT8"], "bf16"),
        ("BF16", ["FP32", "INT8"], "f32"),
        ("FP32", ["BF16", "FP32", "INT8"], "f32"),
    ],
)
def test_bfloat16_is_used_where_wanted_and_native(precision: Precision, capabilities: list[str], hint: str) -> None:
    assert hint_of(precision, capabilities) == hint


@pytest.mark.parametrize(
    ("width", "expected"),
    [(96, 96), (97, 112), (112, 112), (128, 128), (129, 160), (161, 192), (256, 256), (257, 320), (2000, 2048), (1, 1)],
)
def test_width_is_rounded_up_to_one_of_four_per_octave(width: int, expected: int) -> None:
    assert width_class(width) == expected


def test_input_is_padded_with_zeros_on_the_right() -> None:
    network = ShapedNetwork(model(RECOGNISER), precision="FP32", own_up_to=OWN_LINE, width_of=width_class)
    line = noise(1, 3, 48, 100)
    padded = np.concatenate([line, np.zeros((1, 3, 48, 12), np.float32)], axis=3)
    assert np.array_equal(network(line), network(padded))
    assert list(network._requests) == [(1, 3, 48, 112)]


def test_shapes_used_last_are_kept_and_an_evicted_one_computes_the_same_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rapidocr_engine, "MAX_SHAPES", 2)
    network = ShapedNetwork(model(DETECTOR), precision="BF16", own_up_to=OWN_IMAGE)
    inputs = [noise(1, 3, 32, width) for width in (32, 64, 32, 96)]
    before = [network(batch) for batch in inputs]
    assert list(network._requests) == [batch.shape for batch in inputs[-2:]]
    assert all(np.array_equal(network(batch), maps) for batch, maps in zip(inputs, before, strict=True))


@pytest.mark.parametrize(("precision", "tolerance"), [("FP32", 1e-4), ("BF16", 0.05)])
def test_probabilities_equal_those_of_the_network_in_fp32(precision: Precision, tolerance: float) -> None:
    plain = openvino.Core().compile_model(model(DETECTOR), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    batch = noise(1, 3, 96, 128)
    found = ShapedNetwork(model(DETECTOR), precision=precision, own_up_to=OWN_IMAGE)(batch)
    assert np.abs(found - plain([batch])[0]).max() < tolerance


def test_workers_are_not_pinned_to_one_core() -> None:
    network = ShapedNetwork(model(DETECTOR), precision="BF16", own_up_to=OWN_IMAGE)
    network(noise(1, 3, 32, 32))
    (request,) = network._requests.values()
    compiled = request.get_compiled_model()
    properties = ("ENABLE_CPU_PINNING", "INFERENCE_NUM_THREADS", "NUM_STREAMS")
    assert [compiled.get_property(name) for name in properties] == [False, 1, 1]


def test_large_shapes_share_one_network_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    network = ShapedNetwork(model(DETECTOR), precision="BF16", own_up_to=3 * 64 * 64)
    compiled, shapes = network._compiled, list[str]()
    monkeypatch.setattr(
        network, "_compiled", lambda given: shapes.append(str(given.input(0).partial_shape)) or compiled(given)
    )
    for width in (96, 64, 128, 96, 64, 160):
        network(noise(1, 3, 64, width))
    assert shapes == ["[?,3,?,?]", "[1,3,64,64]"]


@pytest.mark.parametrize("number", [1, 2])
def test_images_of_a_batch_are_not_counted_together(number: int) -> None:
    network = ShapedNetwork(model(DETECTOR), precision="BF16", own_up_to=3 * 64 * 64)
    network(noise(number, 3, 64, 64))
    assert list(network._requests) == [(number, 3, 64, 64)]


@pytest.mark.parametrize("name", [DETECTOR, RECOGNISER])
def test_dynamic_network_does_not_depend_on_earlier_inputs(name: str) -> None:
    inputs = [noise(1, 3, 48 if name == RECOGNISER else 64, width) for width in (64, 128, 96, 160)]
    used, fresh = (ShapedNetwork(model(name), precision="BF16", own_up_to=0) for _ in range(2))
    expected = [used(batch) for batch in inputs]
    assert all(np.array_equal(fresh(batch), maps) for batch, maps in reversed([*zip(inputs, expected, strict=True)]))


def test_long_line_gives_the_same_result_in_the_dynamic_network() -> None:
    line = noise(1, 3, 48, 640)
    own, shared = (ShapedNetwork(model(RECOGNISER), precision="FP32", own_up_to=most) for most in (10**6, 0))
    assert np.array_equal(own(line), shared(line))


def shapes_of(longest: int) -> set[tuple[int, int]]:
    """Heights and widths of images with this longest side on the detector's grid."""
    sides = range(32, longest + 1, 32)
    return {shape for side in sides for shape in ((side, longest), (longest, side))}


@pytest.mark.parametrize("longest", [224, 256])
def test_detector_keeps_all_shapes_of_the_default_size(longest: int) -> None:
    assert all(3 * height * width <= OWN_IMAGE for height, width in shapes_of(longest))
    assert len(shapes_of(longest)) <= rapidocr_engine.MAX_SHAPES


def test_recogniser_keeps_all_width_classes_that_have_their_own_network() -> None:
    _, height, least = LINE_SHAPE
    widths = {width_class(width) for width in range(least, 5000)}
    assert len([width for width in widths if 3 * height * width <= OWN_LINE]) <= rapidocr_engine.MAX_SHAPES


PROGRAM = """
import signal
from PIL import Image
from diht_k8s.stages.filter import TextSpotter

signal.signal(signal.SIGTERM, lambda *_: print("stopped in good order"))
spotter = TextSpotter()
spotter.spot(Image.new("RGB", (64, 64)))
del spotter
signal.raise_signal(signal.SIGTERM)
"""


def test_signal_after_the_spotter_is_deleted_reaches_its_handler() -> None:
    """Plugins restored signal stacks in the wrong order, and the signal ended the process by SIGSEGV."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "stopped in good order\n"), done.stderr[-500:]
