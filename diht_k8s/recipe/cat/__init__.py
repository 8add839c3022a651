"""Stage 1, filter: shards in, scores and kept shards out (complexity, action, text spotting)."""
