"""Random generators that depend on a seed and names alone: the same on any worker and after any restart."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(seed: int, *names: object) -> np.random.Generator:
    """A random generator that depends on a seed and on names alone, never on which worker asks."""
    text = "\0".join([str(seed), *map(str, names)])
    return np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")))
