"""From shards to batches in one global order."""
