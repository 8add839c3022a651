"""Commands before the first run: `diht init` and `diht doctor`."""
