"""What `diht init` needs to know of shards before there is a run document: a look at them, and a held-out split."""
