"""Deprecated: this is `diht_k8s.recipe.train` now."""
