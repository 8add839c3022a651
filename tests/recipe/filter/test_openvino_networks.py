"""Networks compiled per small shape: few are kept, large shapes share one, results do not depend on earlier inputs, and
bfloat16 is used only where it is native.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rapidocr

from diht_k8s.stages.filter.text_spotting import rapidocr_engine
from diht_k8s.stages.filter.text_spotting.rapidocr_engine import (
    LINE_SHAPE,
    OWN_IMAGE,
    OWN_LINE,
    Precision,
    ShapedNetwork,
    hint_of,
    import_openvino,
    width_class,
)

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
