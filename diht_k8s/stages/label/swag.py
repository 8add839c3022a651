"""The paper's choice of teacher: torchvision's SWAG networks (hashtag-supervised, arXiv 2201.08371).

In: a name and the user's weights file. Out: the trunk up to the features that its classifier sees, with its preprocessing. The
weights are CC-BY-NC 4.0, not for commercial use: they are never downloaded here, and a warning names the licence.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from PIL.Image import Image
from torch import Tensor, nn

from diht_k8s.api.errors import UserError
from diht_k8s.api.label import Teacher
from diht_k8s.stages.label.teacher_weights import SWAG_LICENCE, SWAG_NAMES, Weights, fit_weights, or_near

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
            f"label.teacher.model swag/{name} is unknown{or_near(name, sorted(SWAG_NAMES))}: use one of {', '.join(SWAG_NAMES)}"
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
