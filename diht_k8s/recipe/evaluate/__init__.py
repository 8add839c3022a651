"""Stage 4, evaluate: a model and benchmark shards in, a report out."""

from diht_k8s.recipe.clip_models.loading import LoadedModel, load_model

__all__ = ["LoadedModel", "load_model"]
