from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from diht_k8s.recipe.train.data import sampler as order_module
from diht_k8s.recipe.train.data.sampler import GlobalSampler, generator


def walk(order: GlobalSampler, positions: range) -> list[tuple[int, int]]:
    """(shard, index) of each position, read stream by stream as the loader does."""
    streams: dict[tuple[int, int], list[tuple[int, int]]] = {}
    found = []
    for position in positions:
        epoch, stream, element = order.locate(position)
        if (epoch, stream) not in streams:
            slices = order.stream_slices(epoch, stream)
            streams[epoch, stream] = [(piece.shard, int(index)) for piece in slices for index in piece.indexes]
        found.append(streams[epoch, stream][element])
    return found


@pytest.mark.parametrize(
    ("sizes", "batch_size"),
    [([7], 2), ([100, 3, 50], 8), ([451, 449, 470, 12, 1], 32), ([1000] * 9, 256), ([130], 128)],
)
def test_every_sample_is_seen_exactly_once_in_each_epoch(sizes: list[int], batch_size: int) -> None:
    order = GlobalSampler.of(sizes, batch_size, seed=3)
    everything = sorted((shard, index) for shard, size in enumerate(sizes) for index in range(size))
    for epoch in range(3):
        seen = walk(order, range(epoch * order.total, (epoch + 1) * order.total))
        assert sorted(seen) == everything


@pytest.mark.parametrize(("sizes", "batch_size"), [([7], 2), ([451, 449, 470, 12, 1], 32), ([500] * 8 + [3], 64)])
def test_streams_read_nothing_but_their_own_part_of_an_epoch(sizes: list[int], batch_size: int) -> None:
    order = GlobalSampler.of(sizes, batch_size, seed=3)
    lengths = [sum(len(piece.indexes) for piece in order.stream_slices(0, s)) for s in range(order.streams)]
    assert sum(lengths) == order.total
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize(("batch_size", "windows"), [(1, [65_536, 4_464]), (4, [16_384] * 4 + [4_464])])
def test_windows_of_all_streams_together_hold_65536_samples(batch_size: int, windows: list[int]) -> None:
    order = GlobalSampler.of([70_000], batch_size, seed=0)
    assert order.streams == batch_size
    pieces = [piece.indexes for stream in range(batch_size) for piece in order.stream_slices(0, stream)]
    numbers = [set((piece // windows[0]).tolist()) for piece in pieces]
    assert all(len(number) == 1 for number in numbers)
    held = Counter(number for piece, (number,) in zip(pieces, numbers, strict=True) for _ in piece)
    assert [held[number] for number in sorted(held)] == windows


@pytest.mark.parametrize("window", [1 << 16, 64])
def test_source_of_a_larger_weight_is_drawn_weight_times_in_each_epoch_and_a_rest_at_random(
    monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    monkeypatch.setattr(order_module, "WINDOW_SAMPLES", window)
    sizes, weights = [100, 40, 81], [0.5, 1.25, 0.5]
    order = GlobalSampler.of(sizes, 16, seed=3, weights=weights)
    assert order.total == 100 + 100 + 81
    parts = []
    for epoch in range(3):
        seen = Counter(walk(order, range(epoch * order.total, (epoch + 1) * order.total)))
        assert {seen[0, index] for index in range(100)} == {seen[2, index] for index in range(81)} == {1}
        assert Counter(seen[1, index] for index in range(40)) == {2: 20, 3: 20}
        parts.append({index for index in range(40) if seen[1, index] == 3})
    assert parts[0] != parts[1]
    assert all(min(part) < 20 < max(part) for part in parts)


def test_shard_that_is_read_twice_has_two_orders() -> None:
    order = GlobalSampler.of([50, 50], 3, seed=0, weights=[1, 2])
    twice = [piece for piece in order.stream_slices(0, 0) if piece.shard == 1]
    assert sorted(piece.turn for piece in twice) == [0, 1]
    assert twice[0].indexes.tolist() != twice[1].indexes.tolist()
    assert sorted(twice[0].indexes) == sorted(twice[1].indexes)


def test_equal_weights_are_none() -> None:
    sizes = [100, 40, 81]
    alike = GlobalSampler.of(sizes, 16, seed=3, weights=[0.3] * 3)
    assert walk(alike, range(300)) == walk(GlobalSampler.of(sizes, 16, seed=3), range(300))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    order = GlobalSampler.of([50, 60, 70], 8, seed=0)
    first, second = walk(order, range(180)), walk(order, range(180, 360))
    assert first != second
    assert first != walk(GlobalSampler.of([50, 60, 70], 8, seed=1), range(180))
    assert first == walk(GlobalSampler.of([50, 60, 70], 8, seed=0), range(180))


def test_a_batch_mixes_shards() -> None:
    order = GlobalSampler.of([500] * 16, 256, seed=0)
    assert order.streams == 64
    assert len({shard for shard, _ in walk(order, range(256))}) >= 10


@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_a_rank_reads_its_own_streams_only(world: int) -> None:
    order = GlobalSampler.of([500] * 8, 64, seed=0)
    assert order.streams % world == 0
    for rank in range(world):
        streams = {order.locate(position)[1] for position in range(rank, order.total - order.total % 64, world)}
        assert all(stream % world == rank for stream in streams)


@pytest.mark.parametrize(
    ("total", "batch_size", "streams"),
    [(100, 256, 1), (128, 256, 2), (5000, 256, 64), (5000, 6, 2), (5000, 7, 1), (10**9, 32768, 1024)],
)
def test_number_of_streams_depends_on_data_and_batch_alone(total: int, batch_size: int, streams: int) -> None:
    assert GlobalSampler.of([total], batch_size, seed=0).streams == streams


def test_generator_depends_on_seed_and_names_only() -> None:
    def draw(seed: int, *names: object) -> np.ndarray:
        return generator(seed, *names).integers(0, 2**62, 4)

    assert (draw(0, "crop", 1, "u") == draw(0, "crop", 1, "u")).all()
    for other in (draw(1, "crop", 1, "u"), draw(0, "crop", 2, "u"), draw(0, "crop", 1, "v"), draw(0, "crop1", "", "u")):
        assert (other != draw(0, "crop", 1, "u")).any()


def test_order_of_a_seed_is_the_same_in_every_version() -> None:
    assert generator(3, "samples", 1, 2, 1).integers(0, 1000, 4).tolist() == [402, 224, 622, 635]
    slices = GlobalSampler.of([5, 4], 2, seed=0).stream_slices(0, 0)
    assert [(each.shard, each.indexes.tolist()) for each in slices] == [(1, [1, 3, 0, 2]), (0, [0, 4, 1, 3, 2])]
