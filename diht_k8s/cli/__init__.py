"""The `diht` commands."""
