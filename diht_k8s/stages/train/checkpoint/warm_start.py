"""First weights (`train.initFrom`): a model, one tower, a network whose weights a package brings, or another run's
checkpoint.

In: a URI. Out: weights under the student's names, or the checkpoint to go on from.

A state dict is real or of shapes alone on the meta device. Position embeddings are resized where the new model sees
larger images or longer captions, as the paper does to continue at 336 px. Each tower must match completely or be left
out: a partial tower is an error, never a silent mix.

A locked image tower (`train.lockImageTower`) has its first weights, and a resume has the same ones: checkpoints hold
its digest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from open_clip.model import resize_pos_embed, resize_text_pos_embed
from torch import Tensor

from diht_k8s.api.errors import UserError
from diht_k8s.api.layout import MARKER
from diht_k8s.api.train import InitFrom, Train
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.label.teacher_weights import read_weights, tower_weights
from diht_k8s.stages.train.checkpoint import checkpoint
from diht_k8s.stages.train.checkpoint.checkpoint import Saved, TowerDigest, is_weight
from diht_k8s.stages.train.checkpoint.init_from import weights_file
from diht_k8s.stages.train.model.student import Student


def start_from(
    storage: Storage, start: InitFrom, model: Student, *, image_only: bool = False, rank: int = 0, world: int = 1
) -> Saved | None:
    """Put the first weights into a model that no engine holds yet (a collective).

    Args:
        storage: reads them.
        start: where they are.
        model: takes them.
        image_only: refuse weights with a text tower; a checkpoint that is gone on from has its own.
        rank: of this process.
        world: number of processes.

    Returns:
        The checkpoint to resume from, with optimiser and position; None if only weights were requested.

    Raises:
        UserError: nothing is there, it cannot be read, or it is of another model; the first weight that differs is
            named.
        DataError: a checkpoint is damaged.
    """
    place = weights_file(storage, start)
    if start.kind == "Checkpoint":
        return checkpoint.read(storage, start.uri.rstrip("/"), rank=rank, world=world)
    if place.endswith(MARKER):
        saved = checkpoint.read(storage, place.removesuffix(MARKER).rstrip("/"), rank=rank, world=world)
        _start_from_tower(storage, saved, model)
        state = {key.removeprefix("buffer|"): saved.state[key] for key in saved.state if is_weight(key)}
    else:
        state = read_weights(storage, place)
    load_first_weights(model, state, place, image_only=image_only)
    return None


def _start_from_tower(storage: Storage, saved: Saved, model: Student) -> None:
    """Take the locked image tower, of which a checkpoint has the digest alone, from where its training took it."""
    tower = saved.cursor.tower
    if tower is None:
        return
    if tower.uri is None:
        raise UserError(
            f"train.initFrom {saved.uri} lacks its locked image tower, which was drawn from a seed: give the model "
            "that the "
            "training exported (OUTPUT/train/DIGEST/model)"
        )
    start_from(storage, InitFrom(uri=tower.uri), model)


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
        state: weights under open_clip's names, the student's (`clip.`), or those of a timm tower alone, also under the
            names of another port of the network.
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
            f"train.initFrom {name} brings a text tower, in whose place train.textStart Ridge would put its own: "
            "remove "
            "textStart, or give the image tower alone"
        )
    _resize(model, towers, name)
    own = model.clip.state_dict()
    _require_whole(own, towers, name)
    for key, value in towers.items():
        if own[key].shape != value.shape and key != "logit_scale":
            raise UserError(
                f"train.initFrom {name} is of another model: {key} is {list(value.shape)} there and "
                f"{list(own[key].shape)} here"
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


def lock_tower(storage: Storage, train: Train, model: Student, saved: Saved | None) -> TowerDigest | None:
    """Lock the image tower of a student that no engine holds yet; of a checkpoint, the one that it was trained on.

    Args:
        storage: reads the tower's weights.
        train: what is asked for.
        model: with its first weights where no checkpoint is gone on from.
        saved: the checkpoint, whose other weights are loaded afterwards.

    Returns:
        What checkpoints say of the tower; None where it is trained.

    Raises:
        UserError: the checkpoint has another tower, or was trained without a locked one, or with one.
    """
    if not train.lock_image_tower:
        if saved is not None and saved.cursor.tower is not None:
            raise UserError(f"the checkpoint {saved.uri} has a locked image tower: set train.lockImageTower: true")
        return None
    if saved is None:
        start = train.init_from
        model.lock_image_tower()
        assert model.locked is not None
        return TowerDigest(sha256=model.locked.sha256, uri=None if start is None else start.uri)
    tower = saved.cursor.tower
    if tower is None:
        raise UserError(
            f"the checkpoint {saved.uri} has trained its image tower: remove train.lockImageTower, or take the "
            "checkpoint's weights only (initFrom.kind Weights)"
        )
    if tower.uri is not None:
        start_from(storage, InitFrom(uri=tower.uri), model)
    model.lock_image_tower()
    assert model.locked is not None
    if model.locked.sha256 != tower.sha256:
        raise UserError(
            f"the checkpoint {saved.uri} was trained on another image tower ({tower.sha256[:12]}) than "
            f"{tower.uri or 'the seed'} gives now ({model.locked.sha256[:12]}): put that tower's file back, or choose "
            "another data.output"
        )
    return tower
