"""Builds the corpus of the evidence: icons and emoji of an npm package in, WebDataset shards split by concept and by style out."""
