"""Images prepared ahead by threads: in order, whatever each takes, with a reason where one cannot be used."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image

from diht_k8s.recipe.evaluate.prefetch import AHEAD, prepared
from diht_k8s.recipe.shards.samples import Sample, make_sample
from tests.recipe.evaluate.small_run import draw


def sample(number: int, picture: bytes | None = None) -> Sample:
    return make_sample(
        f"{number:05d}", {"png": draw("red", "disc", number) if picture is None else picture, "txt": b"x"}
    )


def slow_at_first(image: Image.Image) -> torch.Tensor:
    """The corner pixel, which tells the images apart; of even ones only after a while."""
    pixel = torch.from_numpy(np.asarray(image)[47, 47].copy())
    if pixel[2] % 2 == 0:
        time.sleep(0.01)
    return pixel


def test_prepared_when_images_take_different_times_keeps_their_order() -> None:
    samples = [sample(number) for number in range(40)]
    found = list(prepared(samples, slow_at_first))
    assert [each.key for each, _ in found] == [each.key for each in samples]
    assert [int(p.pixels_CHW[2]) for _, p in found if p.pixels_CHW is not None] == list(range(40))
    assert [p.digest for _, p in found] == [hashlib.sha256(each.image).hexdigest() for each in samples]


def test_prepared_when_an_image_cannot_be_used_says_why_and_goes_on() -> None:
    samples = [sample(0), sample(1, b"junk"), sample(2, b""), make_sample("3", {"txt": b"alone"}), sample(4)]
    found = [picture for _, picture in prepared(samples, slow_at_first)]
    assert [p.bad for p in found] == ["", "picture_unreadable", "picture_empty", "picture_missing", ""]
    assert [p.pixels_CHW is None for p in found] == [False, True, True, True, False]


def test_prepared_when_closed_early_reads_no_further() -> None:
    read: list[int] = []

    def samples() -> Iterator[Sample]:
        for number in range(10 * AHEAD):
            read.append(number)
            yield sample(number % 4)

    pictures = prepared(samples(), slow_at_first)
    next(pictures)
    pictures.close()
    assert len(read) == AHEAD


def test_prepared_when_it_ends_leaves_this_threads_share_of_the_cores_alone() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    list(prepared([sample(0)], slow_at_first))
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
