"""WebDataset shards on S3 or disk: the only code that knows storage."""
