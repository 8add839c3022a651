"""Stage 2, label: kept shards in, vocabulary, teacher heads and soft labels out."""
