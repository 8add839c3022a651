"""What `diht init` and `diht validate` read of shards before a run: a survey, a held-out split, what will fail."""
