"""Deprecated: this is `diht_k8s.recipe.filter` now."""

from diht_k8s.recipe.moved import moved

_NAMES = ("CaptionGraph", "CaptionParser", "TextSpotter", "describe")
__getattr__ = moved(__name__, dict.fromkeys(_NAMES, "recipe.filter"))
