"""Everything on storage: shards of pairs, and the importers that write them."""
