"""Hangs: ranks that stand still are seen, asked where they are, and named."""
