"""Networks that are compiled for each shape: few are kept, what they compute does not depend on which, and bfloat16 only where it is native."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rapidocr

from diht_k8s.recipe.cat import networks
from diht_k8s.recipe.cat.networks import Precision, ShapedNetwork, hint_of, import_openvino, width_class

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
def test_width_is_the_next_of_four_an_octave(width: int, expected: int) -> None:
    assert width_class(width) == expected


def test_padding_never_exceeds_a_quarter() -> None:
    assert max(width_class(width) / width for width in range(96, 5000)) < 1.25


def test_input_is_padded_with_zeros_on_the_right() -> None:
    network = ShapedNetwork(model(RECOGNISER), threads=1, precision="FP32", width_of=width_class)
    line = noise(1, 3, 48, 100)
    padded = np.concatenate([line, np.zeros((1, 3, 48, 12), np.float32)], axis=3)
    assert np.array_equal(network(line), network(padded))
    assert list(network._requests) == [(1, 3, 48, 112)]


@pytest.mark.parametrize(("limit", "value", "kept"), [("MAX_SHAPES", 2, 2), ("MAX_ELEMENTS", 3 * 32 * 96, 1)])
def test_few_shapes_are_kept_and_a_forgotten_one_computes_the_same_again(
    limit: str, value: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, limit, value)
    network = ShapedNetwork(model(DETECTOR), threads=1, precision="BF16")
    inputs = [noise(1, 3, 32, width) for width in (32, 64, 96)]
    before = [network(batch) for batch in inputs]
    assert list(network._requests) == [batch.shape for batch in inputs[-kept:]]
    assert all(np.array_equal(network(batch), maps) for batch, maps in zip(inputs, before, strict=True))


def test_shape_that_was_used_last_is_forgotten_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "MAX_SHAPES", 2)
    network = ShapedNetwork(model(DETECTOR), threads=1, precision="FP32")
    for width in (32, 64, 32, 96):
        network(noise(1, 3, 32, width))
    assert [shape[3] for shape in network._requests] == [32, 96]


@pytest.mark.parametrize(("precision", "tolerance"), [("FP32", 1e-4), ("BF16", 0.05)])
def test_probabilities_are_those_of_the_network_in_fp32(precision: Precision, tolerance: float) -> None:
    plain = openvino.Core().compile_model(model(DETECTOR), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    batch = noise(1, 3, 96, 128)
    found = ShapedNetwork(model(DETECTOR), threads=1, precision=precision)(batch)
    assert np.abs(found - plain([batch])[0]).max() < tolerance


def test_workers_are_not_pinned_to_one_core() -> None:
    network = ShapedNetwork(model(DETECTOR), threads=1, precision="BF16")
    network(noise(1, 3, 32, 32))
    (request,) = network._requests.values()
    compiled = request.get_compiled_model()
    properties = ("ENABLE_CPU_PINNING", "INFERENCE_NUM_THREADS", "NUM_STREAMS")
    assert [compiled.get_property(name) for name in properties] == [False, 1, 1]
