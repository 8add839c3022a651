"""Inputs of the concept heads: the image embedding, or the tower's features before its projection.

In: an image tower of open_clip's. Out: its width before the projection, and the features of the newest batch, kept by a
hook, so that the tower and its weights' names stay unchanged. The paper does not say where the
heads sit; the default is the embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from diht_k8s.api.errors import UserError

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
        f"train.distillation.headsInput Tower: this image tower ({type(visual).__name__}) has no known projection: set Embedding"
    )
