"""Philox4x32-10, a counter-based random number generator (Salmon et al., SC 2011), in torch's integer operations.

Word i of a stream is a function of i and a key, so that any part can be drawn without what comes before it, on CPUs and
accelerators alike. torch's own Philox takes its counter from the number of draws before and has no such interface.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from torch import Tensor

Words = Tensor | int
"""32-bit words in int64 tensors, which broadcast against each other, or one for all."""

ROUNDS: Final = 10
MASK: Final = 2**32 - 1
# Less 2^32, so that no product with a 32-bit word leaves int64.
MULTIPLIERS: Final = (0xD2511F53 - 2**32, 0xCD9E8D57 - 2**32)
KEY_STEPS: Final = (0x9E3779B9, 0xBB67AE85)


def philox4x32(counter: Sequence[Words], key: Sequence[Words]) -> tuple[Words, Words, Words, Words]:
    """Four uniform words of each counter.

    Args:
        counter: four words.
        key: two words.
    """
    a, b, c, d = counter
    k, m = key
    for _ in range(ROUNDS):
        (high_a, low_a), (high_c, low_c) = _product(a, MULTIPLIERS[0]), _product(c, MULTIPLIERS[1])
        a, b, c, d = high_c ^ b ^ k, low_c, high_a ^ d ^ m, low_a
        k, m = (k + KEY_STEPS[0]) & MASK, (m + KEY_STEPS[1]) & MASK
    return a, b, c, d


def _product(word: Words, multiplier: int) -> tuple[Words, Words]:
    """High and low word of the product of a word with `multiplier` + 2^32; the shift rounds down."""
    product = word * multiplier
    return (product >> 32) + word, product & MASK
