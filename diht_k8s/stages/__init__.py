"""The four programs of a run, each in its own package. Torch lives here; no cluster does."""
