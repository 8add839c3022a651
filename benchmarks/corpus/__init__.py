"""The evidence's corpus: icons of an npm package in, shards split by concept and style out."""
