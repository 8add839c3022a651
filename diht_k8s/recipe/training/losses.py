"""Deprecated: this is `diht_k8s.recipe.train.loss.losses` now."""

from diht_k8s.recipe.moved import moved

_NAMES = ("hn_nce_loss", "hn_nce_loss_and_statistics", "soft_label_loss")
__getattr__ = moved(__name__, dict.fromkeys(_NAMES, "recipe.train.loss.losses"))
