"""The frozen teacher, which turns images into features: a timm network, open_clip image tower or SWAG trunk by name.

In: `spec.label.teacher` and a weights file. Out: float32 features of the layer before the classifier (timm) or the
image embedding before normalisation (open_clip). Each network brings its own preprocessing. The paper's teacher is SWAG
ViT-H/14 (section 3.2; weights CC-BY-NC); the default here is EfficientNet-Lite0.

Shapes: B images of a batch, H x W pixels, D features.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import torch
from PIL.Image import Image
from torch import Tensor, nn

from diht_k8s.api.errors import UserError, in_one_line
from diht_k8s.api.label import Teacher
from diht_k8s.api.label import Teacher as TeacherConfig
from diht_k8s.data.shards.storage import Storage
from diht_k8s.models.loading import LoadedModel, load_model
from diht_k8s.stages.label.teacher_weights import (
    SWAG_LICENCE,
    SWAG_NAMES,
    Weights,
    fit_weights,
    or_near,
    read_weights,
    weights_uri,
)

CPU_BATCH_PIXELS: Final = 200_000
"""On a CPU a batch's activations should stay below 32 MiB, else the allocator maps and clears their pages again at
every layer.

With EfficientNet-Lite0 at 224 px batches of 4 are 1.9 x as fast as batches of 32.
"""
GPU_BATCH: Final = 256


@dataclass(frozen=True)
class TeacherNetwork:
    """A frozen image encoder."""

    preprocess: Callable[[Image], Tensor]
    """RGB image -> float32 3 x H x W, as the network was trained."""
    network: nn.Module
    """B x 3 x H x W -> B x D."""
    dimension: int
    """D."""
    size: tuple[int, int]
    """H, W."""
    device: torch.device
    classifier: tuple[Tensor, Tensor] | None = None
    """weights and biases of the network's own classes, where its weights file has them."""
    threads: int = 1
    """batches that a CPU encodes at a time, each in one thread; on a GPU, threads that decode images."""

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


def load_teacher(config: TeacherConfig, storage: Storage, uri: str, device: torch.device) -> TeacherNetwork:
    """Build the teacher and load its weights.

    Args:
        config: name and image size.
        storage: reads the weights.
        uri: weights file, .safetensors or a .pth state dict.
        device: where the network runs.

    Raises:
        UserError: unknown name, weights that do not fit, or a size that the network cannot take.
    """
    library, _, name = config.model.partition("/")
    if not name or library not in BUILDERS:
        raise UserError(
            f"label.teacher.model {config.model} is unknown: write timm/NAME, open_clip/NAME or swag/NAME"
            f"{or_near(config.model, [f'timm/{config.model}', 'timm/tf_efficientnet_lite0'])}"
        )
    weights = read_weights(storage, uri)
    network, preprocess, size = BUILDERS[library](name, config, weights, uri)
    classifier = network.classifier() if isinstance(network, _BeforeClassifier) else None
    network = network.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]
    try:
        with torch.inference_mode():
            dimension = network(torch.zeros(1, 3, *size, device=device)).shape[1]
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UserError(
            f"label.teacher.imageSize {size[0]}: {config.model} cannot take such images ({in_one_line(error)}): "
            f"unset it"
        ) from error
    return TeacherNetwork(preprocess, network, dimension, size, device, classifier)


def check_weights(config: TeacherConfig, weights: Weights, uri: str) -> None:
    """Whether weights fit the teacher, by their names and shapes alone: network and weights are on the meta device.

    Args:
        config: name and image size; the name is known.
        weights: see `clip_models.weight_shapes`.
        uri: where they come from, for the message.

    Raises:
        UserError: they do not fit, or the network takes no images of this size.
    """
    library, _, name = config.model.partition("/")
    with torch.device("meta"), contextlib.suppress(NotImplementedError):  # a network that needs numbers to be built
        BUILDERS[library](name, config, weights, uri)


class LazyTeacher:
    """The teacher, loaded when the first image needs it: timm takes seconds to import."""

    def __init__(self, config: TeacherConfig, storage: Storage, threads: int) -> None:
        self._config, self._storage, self._threads = config, storage, threads

    @cached_property
    def loaded(self) -> TeacherNetwork:
        """The network with its weights."""
        loaded = load_teacher(self._config, self._storage, weights_uri(self._config), device())
        return replace(loaded, threads=self._threads)

    @cached_property
    def texts(self) -> LoadedModel:
        """The text tower of a CLIP-type teacher, which no step but the last one needs."""
        name = self._config.model.removeprefix("open_clip/")
        loaded = load_model(weights_uri(self._config), self._storage, architecture=name)
        del loaded.model.visual  # the other half of the memory
        return loaded


def device() -> torch.device:
    """A GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def claim_threads() -> int:
    """The threads of this process, for the teacher; torch's own operators get one of them on a CPU.

    Features and heads then have the same bits on machines with different numbers of cores.
    """
    threads = torch.get_num_threads()
    if device().type == "cpu":
        torch.set_num_threads(1)
    return threads


class _BeforeClassifier(nn.Module):
    """A timm network up to the features that its classifier sees."""

    def __init__(self, network: nn.Module, *, trained: bool) -> None:
        super().__init__()
        self.network, self.trained = network, trained

    def classifier(self) -> tuple[Tensor, Tensor] | None:
        """Weights and biases of a linear classifier that the weights file brought."""
        network: Any = self.network
        layer = network.get_classifier()
        if not self.trained or not isinstance(layer, nn.Linear) or layer.bias is None:
            return None
        return layer.weight.detach().clone(), layer.bias.detach().clone()

    def forward(self, images_B3HW: Tensor) -> Tensor:
        network: Any = self.network
        return network.forward_head(network.forward_features(images_B3HW), pre_logits=True)


def _timm(
    name: str, config: TeacherConfig, weights: Weights, uri: str
) -> tuple[nn.Module, Callable[[Image], Tensor], tuple[int, int]]:
    import timm
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from timm.data import create_transform, resolve_model_data_config

    if not timm.is_model(name):
        raise UserError(
            f"label.teacher.model timm/{name} is unknown{or_near(name, timm.list_models())}: see timm.list_models()"
        )
    network: Any = timm.create_model(name, pretrained=False)
    cfg, image_size = network.pretrained_cfg, config.image_size
    data: dict[str, Any] = resolve_model_data_config(network)
    if image_size is not None and image_size != data["input_size"][1]:
        if cfg.get("fixed_input_size"):
            raise UserError(
                f"label.teacher.imageSize {image_size}: timm/{name} takes {data['input_size'][1]} pixels only: unset it"
            )
        data["input_size"] = (3, image_size, image_size)
    classifier = cfg.get("classifier") or ()
    optional = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    fitted = fit_weights(network.state_dict(), weights, optional, uri)
    network.load_state_dict(fitted, strict=False)
    preprocess: Any = create_transform(**data, is_training=False)
    if config.crop == "Whole":
        view = PreprocessCfg(size=data["input_size"][1:], mean=data["mean"], std=data["std"])
        preprocess = image_transform_v2(view, is_train=False)
    trained = bool(optional) and all(f"{name}.weight" in fitted for name in optional)
    return _BeforeClassifier(network, trained=trained), preprocess, data["input_size"][1:]


def _open_clip(
    name: str, config: TeacherConfig, weights: Weights, uri: str
) -> tuple[nn.Module, Callable[[Image], Tensor], tuple[int, int]]:
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    if name not in open_clip.list_models():
        raise UserError(
            f"label.teacher.model open_clip/{name} is unknown{or_near(name, open_clip.list_models())}: see "
            "open_clip.list_models()"
        )
    # The meta device, where only names and shapes are asked for: from there nothing can be moved to a CPU.
    where = torch.get_default_device()
    model: Any = open_clip.create_model(name, device=where, load_weights=False, pretrained_image=False)
    tower = model.visual
    size = tower.image_size if isinstance(tower.image_size, tuple) else (tower.image_size, tower.image_size)
    image_size = config.image_size
    if image_size is not None and (image_size, image_size) != size:
        raise UserError(f"label.teacher.imageSize {image_size}: open_clip/{name} takes {size[0]} pixels only: unset it")
    image_side = {key.removeprefix("visual."): value for key, value in weights.items() if key.startswith("visual.")}
    tower.load_state_dict(fit_weights(tower.state_dict(), image_side or weights, (), uri), strict=False)
    if config.text_embeddings:  # it is loaded where captions are read, and shall be missed here
        text_side = {key: value for key, value in model.state_dict().items() if not key.startswith("visual.")}
        fit_weights(text_side, {key: weights[key] for key in text_side if key in weights}, (), uri)
    preprocess: Any = image_transform_v2(PreprocessCfg(**tower.preprocess_cfg), is_train=False)
    return tower, preprocess, size


SIZE: Final = 224
"""Side of the images that the trunks were trained on; the versions fine-tuned end to end take 384, 512 or 518."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSIFIER: Final = {"vit": "heads", "regnet": "fc"}

logger = logging.getLogger(__name__)


def swag(
    name: str, config: Teacher, weights: Weights, uri: str
) -> tuple[nn.Module, Callable[[Image], Tensor], tuple[int, int]]:
    """Network, preprocessing and image size of a SWAG trunk.

    Raises:
        UserError: the name is unknown, the size does not suit the network, or the weights do not fit.
    """
    if name not in SWAG_NAMES:
        raise UserError(
            f"label.teacher.model swag/{name} is unknown{or_near(name, sorted(SWAG_NAMES))}: use one of "
            f"{', '.join(SWAG_NAMES)}"
        )
    logger.warning("the weights of swag/%s are %s", name, SWAG_LICENCE)
    size = config.image_size or SIZE
    network = _network(SWAG_NAMES[name], size)
    classifier = CLASSIFIER[SWAG_NAMES[name].partition("_")[0]]
    setattr(network, classifier, nn.Identity())
    network.load_state_dict(fit_weights(network.state_dict(), weights, (classifier,), uri), strict=False)
    return network, _preprocess(size), (size, size)


def _network(name: str, size: int) -> nn.Module:
    """The untrained network; ViTs are built for one size."""
    import torchvision

    builder: Any = getattr(torchvision.models, name)
    if not name.startswith("vit"):
        return builder(weights=None)
    patch = int(name.rpartition("_")[2])
    if size % patch:
        raise UserError(
            f"label.teacher.imageSize {size} is not a multiple of the patch size {patch}: use {size // patch * patch}"
        )
    return builder(weights=None, image_size=size)


def _preprocess(size: int) -> Callable[[Image], Tensor]:
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms._presets import ImageClassification

    return ImageClassification(
        crop_size=size, resize_size=size, mean=MEAN, std=STD, interpolation=InterpolationMode.BICUBIC
    )


BUILDERS: Final = {"timm": _timm, "open_clip": _open_clip, "swag": swag}
"""By the first part of a teacher's name."""
