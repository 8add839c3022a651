"""Stage 4, evaluate: a model and benchmark shards in, a report out."""
