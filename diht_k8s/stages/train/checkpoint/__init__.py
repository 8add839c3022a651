"""Training state on storage: files, fencing, checkpointing."""
