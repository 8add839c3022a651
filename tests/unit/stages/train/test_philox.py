from __future__ import annotations

import pytest
import torch

from diht_k8s.stages.train.model.philox import philox4x32

FULL = 0xFFFFFFFF
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((FULL,) * 4, (FULL, FULL), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
"""Random123's known answers."""


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_words_when_counter_and_key_are_known_then_the_published_ones(
    counter: tuple[int, ...], key: tuple[int, ...], words: tuple[int, ...]
) -> None:
    assert philox4x32(counter, key) == words
    tensors = [torch.tensor([word, 1]) for word in counter], [torch.tensor([word, 2]) for word in key]
    assert [int(torch.as_tensor(word)[0]) for word in philox4x32(*tensors)] == list(words)
