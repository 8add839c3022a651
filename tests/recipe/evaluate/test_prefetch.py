"""Samples prepared ahead by threads: in order, whatever each takes, with a reason where an image cannot be used."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from diht_k8s.data.shards.images import prefetch
from diht_k8s.data.shards.samples import Sample, make_sample
from diht_k8s.stages.evaluate.benchmark_images import PreparedImage, prepare_image
from tests.recipe.evaluate.small_run import draw

AHEAD = 16


def sample(number: int, image: bytes | None = None) -> Sample:
    return make_sample(f"{number:05d}", {"png": draw("red", "disc", number) if image is None else image, "txt": b"x"})


def slow_at_first(image: Image.Image) -> torch.Tensor:
    """The corner pixel, which tells the images apart; of even ones only after a while."""
    pixel = torch.from_numpy(np.asarray(image)[47, 47].copy())
    if pixel[2] % 2 == 0:
        time.sleep(0.01)
    return pixel


prepare = partial(prepare_image, transform=slow_at_first)


def test_prefetch_when_images_take_different_times_keeps_their_order() -> None:
    samples = [sample(number) for number in range(40)]
    found = list(prefetch(samples, prepare, ahead=AHEAD))
    assert [each.key for each, _ in found] == [each.key for each in samples]
    assert [int(p.pixels_CHW[2]) for _, p in found if p.pixels_CHW is not None] == list(range(40))
    assert [p.digest for _, p in found] == [hashlib.sha256(each.image).hexdigest() for each in samples]


def test_prefetch_when_an_image_cannot_be_used_says_why_and_continues() -> None:
    samples = [sample(0), sample(1, b"junk"), sample(2, b""), make_sample("3", {"txt": b"alone"}), sample(4)]
    found = [prepared for _, prepared in prefetch(samples, prepare, ahead=AHEAD)]
    assert [p.bad for p in found] == ["", "picture_unreadable", "picture_empty", "picture_missing", ""]
    assert [p.pixels_CHW is None for p in found] == [False, True, True, True, False]


def test_prepare_when_only_the_caption_is_bad_keeps_the_image() -> None:
    without_caption = make_sample("0", {"png": draw("red", "disc", 0)})
    assert without_caption.problem == "caption_missing"
    assert prepare(without_caption).pixels_CHW is not None


def test_prefetch_when_closed_early_reads_no_further() -> None:
    read: list[int] = []

    def samples() -> Iterator[Sample]:
        for number in range(10 * AHEAD):
            read.append(number)
            yield sample(number % 4)

    found = prefetch(samples(), prepare, ahead=AHEAD)
    next(found)
    found.close()
    assert len(read) == AHEAD


def test_prefetch_when_preparing_fails_raises_at_that_samples_turn() -> None:
    def fail_at_two(each: Sample) -> PreparedImage:
        if each.key == "00002":
            raise MemoryError("too large")
        return prepare(each)

    found = prefetch([sample(number) for number in range(6)], fail_at_two, ahead=3, threads=2)
    assert [each.key for each, _ in (next(found), next(found))] == ["00000", "00001"]
    with pytest.raises(MemoryError, match="too large"):
        next(found)


def test_prefetch_when_it_ends_leaves_this_threads_share_of_the_cores_alone() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    list(prefetch([sample(0)], prepare, ahead=AHEAD))
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
