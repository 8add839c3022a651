"""Hangs: detection of ranks that stand still, and the name of the one that the others wait for."""
