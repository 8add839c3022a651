"""The frozen teacher: any timm network or open_clip image tower by name, with its own preprocessing, as a function from pictures to features.

In: `spec.label.teacher` and a weights file. Out: float32 features of the layer before the classifier (timm) or the image embedding
before normalisation (open_clip). The paper's teacher is SWAG ViT-H/14 (section 3.2; weights CC-BY-NC); the default here is EfficientNet-Lite0.

Shapes: B pictures of a batch, H x W pixels, D features.
"""

from __future__ import annotations

import difflib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from PIL.Image import Image
from torch import Tensor, nn

from diht_k8s.api.errors import UserError
from diht_k8s.api.labelling import Teacher as TeacherConfig
from diht_k8s.recipe.shards.storage import Storage

Weights = dict[str, Tensor]

CPU_BATCH_PIXELS: Final = 200_000
"""On a CPU a batch's activations should stay below 32 MiB, else the allocator maps and clears their pages anew at every layer
(EfficientNet-Lite0 at 224 px: batches of 4 are 1.9 x as fast as batches of 32)."""
GPU_BATCH: Final = 256


@dataclass(frozen=True)
class Teacher:
    """A frozen image encoder."""

    preprocess: Callable[[Image], Tensor]
    """RGB picture -> float32 3 x H x W, as the network was trained."""
    network: nn.Module
    """B x 3 x H x W -> B x D."""
    dimension: int
    """D."""
    size: tuple[int, int]
    """H, W."""
    device: torch.device

    @property
    def batch_size(self) -> int:
        """B that suits the device."""
        if self.device.type == "cuda":
            return GPU_BATCH
        return max(1, min(32, CPU_BATCH_PIXELS // (self.size[0] * self.size[1])))

    @torch.inference_mode()
    def features(self, images_B3HW: Tensor) -> Tensor:
        """float32 features on the CPU."""
        images_B3HW = images_B3HW.to(self.device, memory_format=torch.channels_last)
        return self.network(images_B3HW).float().cpu()


def load_teacher(config: TeacherConfig, storage: Storage, uri: str, device: torch.device) -> Teacher:
    """Build the teacher and load its weights.

    Args:
        config: name and picture size.
        storage: reads the weights.
        uri: weights file, .safetensors or a .pth state dict.
        device: where the network runs.

    Raises:
        UserError: unknown name, weights that do not fit, or a size that the network cannot take.
    """
    library, _, name = config.model.partition("/")
    builders = {"timm": _timm, "open_clip": _open_clip}
    if not name or library not in builders:
        raise UserError(
            f"label.teacher.model {config.model} is unknown: write timm/NAME or open_clip/NAME"
            f"{nearest(config.model, [f'timm/{config.model}', 'timm/tf_efficientnet_lite0'])}"
        )
    weights = read_weights(storage, uri)
    network, preprocess, size = builders[library](name, config.image_size, weights, uri)
    network = network.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]
    with torch.inference_mode():
        dimension = network(torch.zeros(1, 3, *size, device=device)).shape[1]
    return Teacher(preprocess, network, dimension, size, device)


def read_weights(storage: Storage, uri: str) -> Weights:
    """The state dict in a weights file; no code in it is run.

    Raises:
        UserError: the file holds no plain state dict.
    """
    data = storage.read_bytes(uri)
    try:
        if uri.endswith(".safetensors"):
            from safetensors.torch import load

            return load(data)
        found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors and pickle raise many kinds; all mean the same to the user
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{uri} is no weights file that can be read safely ({reason}): give .safetensors, or a .pth that holds tensors only"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise UserError(f"{uri} holds no state dict: give a file that maps names to tensors")
    return {key.removeprefix("module."): value for key, value in found.items()}


def fit_weights(expected: Weights, weights: Weights, optional: tuple[str, ...], uri: str) -> Weights:
    """The weights under the network's own names.

    Names that differ throughout (a port of the same network) are matched by order where number, shapes and last parts of all names agree.

    Args:
        expected: the network's state dict.
        weights: the file's state dict.
        optional: prefixes of what may be missing or of another shape (the classifier).
        uri: where the weights come from, for the message.

    Raises:
        UserError: they do not fit; names the first key.
    """
    if not set(expected) & set(weights) and len(expected) == len(weights):
        pairs = list(zip(expected.items(), weights.items(), strict=True))
        if all(a.shape == b.shape and _last(k) == _last(j) for (k, a), (j, b) in pairs):
            return {key: value for (key, _), (_, value) in pairs}
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


def nearest(name: str, known: list[str]) -> str:
    """`, did you mean X?` for the nearest known name, "" where none is near."""
    matches = difflib.get_close_matches(name, known, n=1)
    return f", did you mean {matches[0]}?" if matches else ""


def _last(key: str) -> str:
    return key.rpartition(".")[2]


class _BeforeClassifier(nn.Module):
    """A timm network up to the features that its classifier sees."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images_B3HW: Tensor) -> Tensor:
        network: Any = self.network
        return network.forward_head(network.forward_features(images_B3HW), pre_logits=True)


def _timm(
    name: str, image_size: int | None, weights: Weights, uri: str
) -> tuple[nn.Module, Callable[[Image], Tensor], tuple[int, int]]:
    import timm
    from timm.data import create_transform, resolve_model_data_config

    if not timm.is_model(name):
        raise UserError(
            f"label.teacher.model timm/{name} is unknown{nearest(name, timm.list_models())}: see timm.list_models()"
        )
    network: Any = timm.create_model(name, pretrained=False)
    cfg = network.pretrained_cfg
    data: dict[str, Any] = resolve_model_data_config(network)
    if image_size is not None and image_size != data["input_size"][1]:
        if cfg.get("fixed_input_size"):
            raise UserError(
                f"label.teacher.imageSize {image_size}: timm/{name} takes {data['input_size'][1]} pixels only: unset it"
            )
        data["input_size"] = (3, image_size, image_size)
    classifier = cfg.get("classifier") or ()
    optional = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    network.load_state_dict(fit_weights(network.state_dict(), weights, optional, uri), strict=False)
    preprocess: Any = create_transform(**data, is_training=False)
    return _BeforeClassifier(network), preprocess, data["input_size"][1:]


def _open_clip(
    name: str, image_size: int | None, weights: Weights, uri: str
) -> tuple[nn.Module, Callable[[Image], Tensor], tuple[int, int]]:
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    if name not in open_clip.list_models():
        raise UserError(
            f"label.teacher.model open_clip/{name} is unknown{nearest(name, open_clip.list_models())}: see open_clip.list_models()"
        )
    model: Any = open_clip.create_model(name, load_weights=False, pretrained_image=False)
    tower = model.visual
    size = tower.image_size if isinstance(tower.image_size, tuple) else (tower.image_size, tower.image_size)
    if image_size is not None and (image_size, image_size) != size:
        raise UserError(f"label.teacher.imageSize {image_size}: open_clip/{name} takes {size[0]} pixels only: unset it")
    image_side = {key.removeprefix("visual."): value for key, value in weights.items() if key.startswith("visual.")}
    tower.load_state_dict(fit_weights(tower.state_dict(), image_side or weights, (), uri), strict=False)
    preprocess: Any = image_transform_v2(PreprocessCfg(**tower.preprocess_cfg), is_train=False)
    return tower, preprocess, size
