"""Stage 3, train: kept shards and labels in, checkpoints and a model out."""
