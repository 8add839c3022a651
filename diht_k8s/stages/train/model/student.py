"""The student: open_clip's CLIP with exact GELU (the DiHT architecture) and the two concept heads.

The heads are linear maps from the image embedding before normalisation (our choice; the paper does not say), or from
what the tower's projection sees, to the vocabulary. They are dropped on export.

An image tower that does not learn (`train.lockImageTower`) is beside the student and no part of it. So nothing that
walks through the student's weights meets it: no gradient, optimiser state, average, ZeRO partition or checkpoint. It is
always in evaluation mode, which freezes the statistics of BatchNorm. Checkpoints hold its digest; the export puts its
weights back.

The heads see the image embedding, or the tower's features before its projection, of the newest batch, kept by a hook,
so that the tower and its weights' names stay unchanged. The paper does not say where the heads sit; the default is the
embedding.

A training in stages of growing resolution shows its image tower images smaller than the position embedding. The
parameter keeps the grid of the last size all the time, so checkpoints, moments and export know one form. Smaller images
see it resampled as open_clip resamples weights (bicubic, antialiased), by a product with a constant matrix:
torch has no deterministic gradient of an interpolation on GPUs.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from open_clip.model import CLIP
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer, text_global_pool
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from diht_k8s.api.errors import UserError
from diht_k8s.stages.train.loss.losses import clamped_logit_scale

# B pairs, T tokens of the longest caption, D embedding, W width of the image tower, C concepts of a head.


class Features(NamedTuple):
    """The student's outputs, as the losses need them."""

    image_BD: Tensor
    """normalised image features, fp32."""
    text_BD: Tensor
    """normalised text features, fp32."""
    logit_scale: Tensor
    """inverse temperature (not its logarithm), a scalar."""
    object_logits_BC: Tensor | None
    attribute_logits_BC: Tensor | None
    taught_BD: Tensor | None = None
    """normalised features of the texts of a teacher's own, fp32."""


class Student(nn.Module):
    """CLIP with concept heads."""

    def __init__(
        self, config: dict[str, Any], *, num_objects: int = 0, num_attributes: int = 0, heads_input: str = "Embedding"
    ) -> None:
        """Make a model with random weights (open_clip's initialisation, as DiHT's).

        Args:
            config: an open_clip model configuration.
            num_objects: classes of the object head; 0 means no head.
            num_attributes: classes of the attribute head; 0 means no head.
            heads_input: Embedding or Tower, as `train.distillation.headsInput`.

        Raises:
            UserError: open_clip refuses the configuration, or the tower has no features before its projection that we
                know.
        """
        super().__init__()
        try:
            # DeepSpeed cannot broadcast 0-dimensional parameters; the export makes the scale a scalar again.
            self.clip = CLIP(**config, nonscalar_logit_scale=True)
        except (
            TypeError,
            ValueError,
            KeyError,
            AttributeError,
            AssertionError,
            ArithmeticError,
            RuntimeError,
        ) as error:
            raise UserError(f"open_clip refuses the model configuration: {error}: check train.modelConfig") from error
        size: Any = self.clip.visual.image_size
        self.image_size: int = size[0] if isinstance(size, tuple) else size
        """side of the images in pixels."""
        self.locked: LockedTower | None = None
        """the image tower, or its part before a trained projection, that is no part of the student any more."""
        has_heads = num_objects or num_attributes
        for module in self.clip.transformer.modules():
            if isinstance(module, nn.MultiheadAttention):
                module.register_forward_pre_hook(_causal, with_kwargs=True)
        self._tower = TowerFeatures(self.clip.visual) if heads_input == "Tower" and has_heads else None
        width = config["embed_dim"] if self._tower is None else self._tower.width
        self.object_head = nn.Linear(width, num_objects) if num_objects else None
        self.attribute_head = nn.Linear(width, num_attributes) if num_attributes else None
        self.autocast_dtype: torch.dtype | None = None
        """dtype of matrix products in `forward`; None leaves the choice to the caller."""

    def lock_image_tower(self) -> None:
        """Take the image tower out of what is trained; of a timm network all but the projection that open_clip adds."""
        visual: Any = self.clip.visual
        if isinstance(visual, TimmModel):
            self.locked, visual.trunk = LockedTower(visual.trunk, "clip.visual.trunk."), nn.Identity()
        else:
            self.locked, self.clip.visual = LockedTower(visual, "clip.visual."), nn.Identity()  # type: ignore[assignment]  # any module will do

    @property
    def keeps_projection(self) -> bool:
        """Whether a locked tower has left its projection to the student."""
        return isinstance(self.clip.visual, TimmModel)

    @property
    def image_tower(self) -> nn.Module:
        """The image tower, locked or not."""
        return self.clip.visual if self.locked is None else self.locked.module

    def set_grad_checkpointing(self) -> None:
        """Have the towers compute activations again in the backward pass; a locked tower has none."""
        clip: Any = self.clip
        if self.locked is None:
            clip.visual.set_grad_checkpointing()
        clip.transformer.grad_checkpointing = True

    def encode_image(self, images: Tensor) -> Tensor:
        """Image embeddings before normalisation, fp32, BxD, of BxCxHxW images or BxW features of a locked tower."""
        seen = images if self.locked is None or images.ndim == 2 else self.locked(images)
        return self.clip.encode_image(seen).float()

    def encode_text(self, tokens_BT: Tensor) -> Tensor:
        """Text embeddings before normalisation, fp32, BxD.

        Under CLIP's causal mask nothing after the end token (the highest one) counts, so the batch is cut to its
        longest caption: the numbers are the same and short captions cost less.
        """
        # On a device the length would have to be waited for in each step: there the engine cuts what it passes.
        if self.cuts_captions and not (self.training and tokens_BT.device.type != "cpu"):
            tokens_BT = tokens_BT[:, : int(tokens_BT.argmax(dim=1).max()) + 1]
        return self.text_features(tokens_BT)

    @property
    def cuts_captions(self) -> bool:
        """Whether tokens behind a batch's longest caption change nothing, so that they can be left out."""
        clip: Any = self.clip
        return clip.text_pool_type == "argmax" and clip.attn_mask is not None

    def text_features(self, tokens_BT: Tensor) -> Tensor:
        """`encode_text` of tokens as long as they are."""
        clip: Any = self.clip
        x_BTW = clip.token_embedding(tokens_BT).to(clip.transformer.get_cast_dtype())
        x_BTW = x_BTW + clip.positional_embedding[: tokens_BT.shape[1]].to(x_BTW.dtype)
        mask_TT = clip.attn_mask[: tokens_BT.shape[1], : tokens_BT.shape[1]] if clip.attn_mask is not None else None
        x_BTW = clip.ln_final(clip.transformer(x_BTW, attn_mask=mask_TT))
        pooled_BW = text_global_pool(x_BTW, tokens_BT, clip.text_pool_type, eos_token_id=clip.text_eos_id)
        projection = clip.text_projection
        if projection is None:
            return pooled_BW.float()
        return (projection(pooled_BW) if isinstance(projection, nn.Linear) else pooled_BW @ projection).float()

    def concept_inputs(self, images: Tensor, image_BD: Tensor) -> Tensor:
        """What the heads see of images, or of BxW features of a locked tower, that `encode_image` has just encoded."""
        return image_BD if self._tower is None else images if images.ndim == 2 else self._tower.take()

    def forward(
        self, images: Tensor, tokens_BT: Tensor, max_logit_scale: float, taught_BT: Tensor | None = None
    ) -> Features:
        """Features and concept logits of a batch of BxCxHxW images, or of BxW features of a locked tower; features of
        a teacher's own texts.
        """
        lower = self.autocast_dtype
        with contextlib.nullcontext() if lower is None else torch.autocast(images.device.type, lower):
            return self._features(images, tokens_BT, max_logit_scale, taught_BT)

    def _features(
        self, images: Tensor, tokens_BT: Tensor, max_logit_scale: float, taught_BT: Tensor | None
    ) -> Features:
        image_BD = self.encode_image(images)
        seen_BW = self.concept_inputs(images, image_BD)
        text_BD = self.encode_text(tokens_BT)
        return Features(
            nn.functional.normalize(image_BD, dim=-1),
            nn.functional.normalize(text_BD, dim=-1),
            clamped_logit_scale(self.clip.logit_scale.float().squeeze(0), max_logit_scale),
            self.object_head(seen_BW).float() if self.object_head is not None else None,
            self.attribute_head(seen_BW).float() if self.attribute_head is not None else None,
            None if taught_BT is None else nn.functional.normalize(self.encode_text(taught_BT), dim=-1),
        )


def _causal(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Say that a text mask is the causal one: torch then takes flash attention, which knows no other mask."""
    return args, {**kwargs, "is_causal": kwargs.get("attn_mask") is not None}


def has_batch_statistics(model: nn.Module) -> bool:
    """Whether a sample's features depend on the others that pass through the model with it in training."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def draws_in_training(model: nn.Module) -> bool:
    """Whether a model drops anything at random in training: elements, paths or patches."""
    return any(_drop_rate(module) > 0 for module in model.modules())


def _drop_rate(module: nn.Module) -> float:
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p
    # drop_prob: timm's paths; prob: patches of open_clip and timm; drop_rate: timm networks that call the function
    rates = [getattr(module, name, None) for name in ("drop_prob", "prob", "drop_rate")]
    return max((rate for rate in rates if isinstance(rate, float)), default=0.0)


def require_passing_images(tower: nn.Module) -> None:
    """Pass two images without data through a copy of a timm tower, which does not check its image size when it is made.

    Args:
        tower: as it is trained, or without memory for its weights (on torch's meta device).

    Raises:
        UserError: it takes no images of its size.
    """
    if not isinstance(tower, TimmModel):
        return
    # A pass changes no parameter, but buffers and what modules cache.
    copied = copy.deepcopy(tower, {id(parameter): parameter for parameter in tower.parameters()})
    without_memory = next(tower.parameters()).is_meta
    size: Any = tower.image_size
    try:
        with (
            torch.no_grad(),
            contextlib.nullcontext() if without_memory else FakeTensorMode(allow_non_fake_inputs=True),
        ):
            copied(torch.zeros(2, 3, *size, device="meta" if without_memory else "cpu"))
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        why = str(error).rstrip(".") or type(error).__name__
        raise UserError(
            f"the image tower takes no images of {' x '.join(map(str, size))} pixels ({why}): check image_size and the "
            "network"
        ) from error


# B images, C channels, H height, W width of the images and of the features.


class LockedTower:
    """A frozen image tower, or its part before the projection."""

    def __init__(self, module: nn.Module, prefix: str) -> None:
        """Freeze a module.

        Args:
            module: BxCxHxW images -> features, BxW where they are pooled.
            prefix: of its weights' names in the student.
        """
        self.module = module.eval().requires_grad_(False)
        self.prefix = prefix

    def __call__(self, images_BCHW: Tensor) -> Tensor:
        """The features, on the images' device, to which the tower moves when it is first used there."""
        if next(self.module.parameters()).device != images_BCHW.device:
            self.module.to(images_BCHW.device)
        with torch.no_grad():
            return self.module(images_BCHW)

    def state(self) -> dict[str, Tensor]:
        """All its weights and statistics under their names in the student, on the CPU."""
        return {f"{self.prefix}{key}": value.cpu() for key, value in self.module.state_dict().items()}

    @cached_property
    def sha256(self) -> str:
        """Digest (hex) of names, types, shapes and numbers."""
        digest = hashlib.sha256()
        for key, value in self.state().items():
            digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @property
    def elements(self) -> int:
        """Numbers that it holds."""
        return sum(value.numel() for value in self.module.state_dict().values())


# B images, T tokens, W width of the tower, H and V sides of the last feature map.


class TowerFeatures:
    """Keeps the input of the image tower's projection."""

    def __init__(self, visual: nn.Module) -> None:
        """Hang a hook into the tower.

        Args:
            visual: a ViT (its pooled token), a ModifiedResNet (the mean of its last feature map) or a timm network with
                a projection.

        Raises:
            UserError: the tower has no projection of its own that we know.
        """
        self._newest: Tensor | None = None
        module, self.width, self._pool = _before_projection(visual)
        module.register_forward_hook(self._keep)

    def _keep(self, _module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._newest = self._pool(inputs[0], output)

    def take(self) -> Tensor:
        """BxW features of the batch that has just passed through the tower, fp32; they are not kept longer."""
        assert self._newest is not None, "the tower has run"
        newest, self._newest = self._newest, None
        return newest.float()


Pool = Callable[[Tensor, Tensor], Tensor]
"""Input and output of the hooked module -> BxW."""


def _before_projection(visual: Any) -> tuple[nn.Module, int, Pool]:
    """The module to watch, the features' width, and how its input or output becomes features."""
    if isinstance(visual, ModifiedResNet):
        return visual.attnpool, visual.attnpool.k_proj.in_features, lambda map_BWHV, _: map_BWHV.mean(dim=(2, 3))
    if isinstance(visual, VisionTransformer) and visual.proj is not None and visual.attn_pool is None:
        return visual.ln_post, visual.proj.shape[0], lambda _, x: x if x.ndim == 2 else visual._global_pool(x)[0]
    if isinstance(visual, TimmModel) and len(visual.head) and visual.trunk.num_classes == 0:
        trunk: Any = visual.trunk
        return trunk, trunk.num_features, lambda _, x: x if x.ndim == 2 else x.mean(dim=(2, 3))
    raise UserError(
        f"train.distillation.headsInput Tower: this image tower ({type(visual).__name__}) has no known projection: "
        "set Embedding"
    )


POSITIONS = "positional_embedding"
REDUCTION = 32
"""Pixels of a side that a ResNet turns into one place of its last map."""


def take_sizes(tower: nn.Module, sizes: Sequence[int]) -> None:
    """Have an image tower of open_clip's take images of some sizes.

    Args:
        tower: for the largest of them; changed in place.
        sizes: sides in pixels.

    Raises:
        UserError: the tower is another one, or an image is too small for it.
    """
    visual: Any = tower
    if isinstance(tower, VisionTransformer):
        holder, step = visual, visual.patch_size[0]
    elif isinstance(tower, ModifiedResNet):
        holder, step = visual.attnpool, REDUCTION
    else:
        raise UserError(
            "train.stages needs an image tower of open_clip's own, a ViT or a ResNet, whose positions can be "
            "resampled: "
            "choose such a model, or remove stages"
        )
    if min(sizes) < step:
        raise UserError(
            f"train.stages: images of {min(sizes)} pixels are smaller than a patch of {step}: raise imageSize"
        )
    _resampled_forward(holder, 1 if holder is not visual else step)


def _resampled_forward(holder: Any, step: int) -> None:
    """Replace the forward of the module that adds the positions; a parameter is read in it, when ZeRO has gathered
    it.
    """
    whole: Callable[..., Any] = holder.forward
    side = round((getattr(holder, POSITIONS).shape[0] - 1) ** 0.5)

    def forward(x_BCHW: Tensor) -> Any:
        now = x_BCHW.shape[-1] // step
        if now == side:
            return whole(x_BCHW)
        # an attribute of the instance goes before the parameter of that name
        holder.__dict__[POSITIONS] = resampled(getattr(holder, POSITIONS), side, now)
        try:
            return whole(x_BCHW)
        finally:
            del holder.__dict__[POSITIONS]

    holder.forward = forward


def resampled(positions_PW: Tensor, side: int, new_side: int) -> Tensor:
    """A position embedding for another grid; its first row, of the class or the mean, stays.

    Args:
        positions_PW: 1 + side * side rows.
        side: of its grid.
        new_side: of the wanted grid.
    """
    matrix_QP = _matrix(side, new_side, positions_PW.device, positions_PW.dtype)
    return torch.cat([positions_PW[:1], matrix_QP @ positions_PW[1:]])


@functools.cache
def _matrix(side: int, new_side: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """What bicubic interpolation with antialiasing does to a grid, as a matrix of new_side**2 x side**2."""
    with torch.no_grad():
        units = torch.eye(side * side, dtype=torch.float64).view(side * side, 1, side, side)
        size = (new_side, new_side)
        columns = nn.functional.interpolate(units, size=size, mode="bicubic", antialias=True, align_corners=False)
        return columns.view(side * side, new_side * new_side).T.to(device=device, dtype=dtype).contiguous()
