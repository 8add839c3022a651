"""Whether weights fit a student, and how they get into it: towers whole or not at all, position embeddings resized.

In: a state dict, real or of shapes alone on the meta device. Position embeddings are resized where the new model sees larger
images or longer captions, as the paper does to continue at 336 px. Each tower must match completely or be left out: a partial
tower is an error, never a silent mix.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from open_clip.model import resize_pos_embed, resize_text_pos_embed
from torch import Tensor

from diht_k8s.api.errors import UserError
from diht_k8s.stages.label.teacher_weights import tower_weights
from diht_k8s.stages.train.model.student import Student

WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes that DistributedDataParallel and torch.compile put before names."""
HEADS = ("object_head.", "attribute_head.")
NOT_OURS = ("logit_bias", "attn_mask", "text.attn_mask", "input_resolution", "context_length", "vocab_size")
"""Entries of open_clip's and OpenAI's files that are no weights of a CLIP with our loss."""

TEXT = "text"
"""The group of the text tower's weights."""


def load_first_weights(model: Student, state: Mapping[str, Tensor], name: str, *, image_only: bool = False) -> None:
    """Load weights that may lack towers, heads or the logit scale, or have other image sizes and caption lengths.

    Args:
        model: the student; what the state lacks keeps its random start.
        state: weights under open_clip's names, the student's (`clip.`), or those of a timm tower alone, also under the names
            of another port of the network.
        name: where they come from, for messages.
        image_only: refuse a text tower, for which `train.textStart` has another start.

    Raises:
        UserError: the state is of another model, or has a text tower that nobody wants.
    """
    towers, heads = _sorted_out(model, state)
    if not towers:
        raise UserError(f"train.initFrom {name} holds no weights of a CLIP model")
    if image_only and any(_group(key) == TEXT for key in towers):
        raise UserError(
            f"train.initFrom {name} brings a text tower, in whose place train.textStart Ridge would put its own: remove "
            "textStart, or give the image tower alone"
        )
    _resize(model, towers, name)
    own = model.clip.state_dict()
    _require_whole(own, towers, name)
    for key, value in towers.items():
        if own[key].shape != value.shape and key != "logit_scale":
            raise UserError(
                f"train.initFrom {name} is of another model: {key} is {list(value.shape)} there and {list(own[key].shape)} here"
            )
    model.clip.load_state_dict({key: value.reshape(own[key].shape) for key, value in towers.items()}, strict=False)
    mine = model.state_dict()
    fitting = {key: value for key, value in heads.items() if key in mine and mine[key].shape == value.shape}
    model.load_state_dict(fitting, strict=False)


def _sorted_out(model: Student, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The towers' weights under open_clip's names, and the concept heads'."""
    towers, heads = {}, {}
    for key, value in state.items():
        for wrapper in WRAPPERS:
            key = key.removeprefix(wrapper)
        if key.startswith(HEADS):
            heads[key] = value.float()
        elif key.removeprefix("clip.") not in NOT_OURS:
            towers[key.removeprefix("clip.")] = value.float() if value.is_floating_point() else value
    if not any(key.startswith("visual.") for key in towers):
        for prefix in ("visual.trunk.", "visual."):  # a tower alone; what it has beside (a classifier) is left out
            state_of = model.clip.state_dict().items()
            own = {key.removeprefix(prefix): value for key, value in state_of if key.startswith(prefix)}
            if alone := tower_weights(own, towers):  # as a teacher's are read
                return {f"{prefix}{key}": value for key, value in (own | alone).items()}, heads
    return towers, heads


def _resize(model: Student, towers: dict[str, Tensor], name: str) -> None:
    trunk: Any = getattr(model.clip.visual, "trunk", None)
    key = "visual.trunk.pos_embed"
    try:
        if trunk is not None and key in towers and towers[key].shape != trunk.pos_embed.shape:
            from timm.layers.pos_embed import resample_abs_pos_embed

            size, prefix = trunk.patch_embed.grid_size, trunk.num_prefix_tokens
            towers[key] = resample_abs_pos_embed(towers[key], list(size), num_prefix_tokens=prefix)
        resize_pos_embed(towers, model.clip)
        resize_text_pos_embed(towers, model.clip)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"train.initFrom {name} is of another model: its position embeddings do not fit ({error})"
        ) from error


def _require_whole(own: Mapping[str, Tensor], towers: Mapping[str, Tensor], name: str) -> None:
    """Each tower is there as a whole or not at all."""
    unknown = sorted(towers.keys() - own.keys())
    if unknown:
        raise UserError(f"train.initFrom {name} is of another model: this one has no {unknown[0]}")
    groups: dict[str, set[str]] = {}
    for key in own:
        groups.setdefault(_group(key), set()).add(key)
    for wanted in groups.values():
        missing = sorted(wanted - towers.keys())
        if missing and len(missing) < len(wanted):
            raise UserError(f"train.initFrom {name} is of another model: it lacks {missing[0]}")


def _group(key: str) -> str:
    """The group of a weight: open_clip's projection of a timm tower, the image tower, the scale or the text tower."""
    return next((prefix for prefix in ("visual.head.", "visual.", "logit_scale") if key.startswith(prefix)), TEXT)
