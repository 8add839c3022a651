"""Deprecated: this is `diht_k8s.recipe.evaluate` now."""

from diht_k8s.recipe.moved import moved

__getattr__ = moved(__name__, dict.fromkeys(("LoadedModel", "load_model"), "recipe.evaluate"))
