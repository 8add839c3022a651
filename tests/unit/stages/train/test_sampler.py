from __future__ import annotations

import itertools
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest

from diht_k8s.stages.train.data.batch import BatchShare
from diht_k8s.stages.train.data.sampler import (
    LaneSampler,
    OrderSizes,
    generator,
    order_sizes,
    sampler_over,
)

Seen = list[tuple[int, int]]


def lane_of(order: LaneSampler, epoch: int, lane: int, start: int = 0) -> Seen:
    """(shard, index) of a lane's elements in the order in which they are handed out, from one of them on."""
    blocks = order.blocks(epoch, lane)
    found = []
    for number in itertools.chain.from_iterable(order.lane(epoch, lane).elements(start)):
        block = int(np.searchsorted(blocks.begins, number, side="right")) - 1
        found.append((int(blocks.shards[block]), int(blocks.firsts[block] + number - blocks.begins[block])))
    return found


def batches(order: LaneSampler, batch_size: int, number: int, *, first: int = 0, parts: int = 1) -> list[Seen]:
    """The rows of some batches, as several readers together make them."""
    lanes: dict[tuple[int, int], Seen] = {}
    found = []
    for start in range(first * batch_size, (first + number) * batch_size, batch_size):
        rows: Seen = []
        own = [BatchShare(batch_size, rank, parts).part(0, 1) for rank in range(parts)]
        for position in itertools.chain(*(order.positions(start, batch_size, each) for each in own)):
            epoch, lane, element = order.locate(position)
            if (epoch, lane) not in lanes:
                lanes[epoch, lane] = lane_of(order, epoch, lane)
            rows.append(lanes[epoch, lane][element])
        found.append(rows)
    return found


def everything(sizes: list[int]) -> Seen:
    return sorted((shard, index) for shard, size in enumerate(sizes) for index in range(size))


SETS = [
    ([7], 2),
    ([100, 3, 50], 8),
    ([451, 449, 470, 12, 1], 32),
    ([1000] * 9, 256),
    ([130], 128),
    ([64] * 16, 96),  # no power of two
    ([5] * 40, 7),
]


@pytest.mark.parametrize(("sizes", "batch_size"), SETS)
@pytest.mark.parametrize("sequential", [frozenset[int](), frozenset([0, 2])], ids=["ranges", "some in sequence"])
def test_every_sample_is_seen_exactly_once_in_each_epoch(
    sizes: list[int], batch_size: int, sequential: frozenset[int]
) -> None:
    order = sampler_over(sizes, batch_size, 3, sequential=sequential, window=300)
    rows = list(itertools.chain(*batches(order, batch_size, -(-3 * order.total // batch_size))))
    by_epoch: dict[int, Seen] = {}
    own, starts = range(batch_size), range(0, len(rows), batch_size)
    positions = itertools.chain(*(order.positions(start, batch_size, own) for start in starts))
    for position, seen in zip(positions, rows, strict=True):
        by_epoch.setdefault(order.locate(position)[0], []).append(seen)
    for epoch in range(3):
        assert sorted(by_epoch[epoch]) == everything(sizes)


@pytest.mark.parametrize("case", range(30))
def test_any_set_and_batch_is_read_once_in_an_epoch_whatever_the_number_of_readers(case: int) -> None:
    rng = random.Random(case)
    sizes = [rng.randint(1, rng.choice([5, 200, 3000])) for _ in range(rng.randint(1, 12))]
    batch_size = rng.randint(1, min(600, sum(sizes)))
    asked: dict[str, Any] = {
        name: rng.choice([None, rng.randint(1, most)])
        for name, most in {"lanes": 100, "block": 200, "window": 4000}.items()
    }
    order = sampler_over(sizes, batch_size, case, **asked)
    lengths = [order.length(1, lane) for lane in range(order.order.lanes)]
    assert sum(lengths) == order.total
    assert max(lengths) - min(lengths) <= 1
    seen = list(itertools.chain(*(lane_of(order, 1, lane) for lane in range(order.order.lanes))))
    assert sorted(seen) == everything(sizes)
    whole = batches(order, batch_size, 3)
    assert len(set(whole[0])) == batch_size
    for parts in (2, 3, 5, 8, 16, 39):
        assert batches(order, batch_size, 3, parts=parts) == whole


@pytest.mark.parametrize("start", [1, 63, 500, 1023, 1024, 1500, 2999, 3000])
@pytest.mark.parametrize("window", [1, 7, 700, 2000, 100_000])
def test_lane_that_begins_in_the_middle_goes_on_as_the_whole_one(start: int, window: int) -> None:
    order = sampler_over([3000], 1, 5, lanes=1, window=window)
    assert lane_of(order, 2, 0, start) == lane_of(order, 2, 0)[start:]


def test_window_bounds_what_a_lane_holds() -> None:
    order = sampler_over([50_000], 1, 5, lanes=1, window=640)
    blocks = order.blocks(0, 0)
    numbers = np.concatenate(list(order.lane(0, 0).elements()))
    assert sorted(numbers) == list(range(50_000))
    assert (numbers - np.arange(50_000)).max() < 640  # nothing is read that far ahead
    loaded = np.maximum.accumulate(blocks.begins[np.searchsorted(blocks.begins, numbers, side="right")])
    held = loaded - np.arange(1, 50_001)
    assert held.max() < 640 + 2 * 64


def test_lane_takes_equally_many_rows_of_every_batch_across_the_ends_of_epochs() -> None:
    order = sampler_over([451, 449, 470, 12, 1], 32, 0)
    assert order.total % order.order.lanes
    for start in range(0, 4 * order.total, 32):
        found = Counter(order.locate(position)[1] for position in order.positions(start, 32, range(32)))
        assert set(found.values()) == {32 // order.order.lanes}


def test_source_of_a_larger_weight_is_drawn_weight_times_in_each_epoch_and_a_rest_at_random() -> None:
    sizes, weights = [100, 40, 81], [0.5, 1.25, 0.5]
    order = sampler_over(sizes, 16, 3, weights=weights)
    assert order.total == 100 + 100 + 81
    parts = []
    for epoch in range(3):
        seen = Counter(itertools.chain(*(lane_of(order, epoch, lane) for lane in range(order.order.lanes))))
        assert {seen[0, index] for index in range(100)} == {seen[2, index] for index in range(81)} == {1}
        assert Counter(seen[1, index] for index in range(40)) == {2: 20, 3: 20}
        parts.append({index for index in range(40) if seen[1, index] == 3})
    assert parts[0] != parts[1]


def test_equal_weights_are_none() -> None:
    sizes = [100, 40, 81]
    alike, none = (sampler_over(sizes, 16, 3, weights=weights) for weights in ([0.3] * 3, []))
    assert batches(alike, 16, 20) == batches(none, 16, 20)


def test_epochs_and_seeds_have_orders_and_blocks_of_their_own() -> None:
    order = sampler_over([500, 600, 700], 8, 0)
    first, second = order.blocks(0, 0), order.blocks(1, 0)
    assert first.firsts.tolist() != second.firsts.tolist()
    assert {int(f) % 64 for f in first.firsts} != {int(f) % 64 for f in second.firsts}
    assert lane_of(order, 0, 0) != lane_of(sampler_over([500, 600, 700], 8, 1), 0, 0)
    assert lane_of(order, 0, 0) == lane_of(sampler_over([500, 600, 700], 8, 0), 0, 0)


def test_shard_without_ranges_is_read_from_its_start_in_sequence() -> None:
    order = sampler_over([500, 600], 1, 0, lanes=1, sequential=frozenset([1]))
    blocks = order.blocks(3, 0)
    firsts = blocks.firsts[blocks.shards == 1].tolist()
    assert firsts == list(range(0, 600, 64))
    places = np.flatnonzero(blocks.shards == 1)
    assert places.tolist() == list(range(places[0], places[0] + len(firsts)))


def test_random_part_of_a_shard_without_ranges_is_any_run_up_to_its_end() -> None:
    order = sampler_over([100, 40], 1, 0, weights=[1, 1.25], lanes=1, window=1, sequential=frozenset([1]))
    ends = set[int]()
    for epoch in range(300):
        blocks = order.blocks(epoch, 0)
        [first] = blocks.firsts[(blocks.shards == 1) & (blocks.counts == 10)].tolist()
        ends.add(first + 10)
    assert ends == set(range(10, 41))


def test_a_batch_mixes_shards() -> None:
    order = sampler_over([500] * 16, 256, 0)
    assert len({shard for shard, _ in batches(order, 256, 1)[0]}) == 16


@pytest.mark.parametrize(
    ("total", "batch_size", "asked", "expected"),
    [
        (100, 256, {}, (1, 64, 32768)),
        (128, 256, {}, (2, 64, 32768)),
        (5000, 6, {}, (6, 64, 32768)),
        (5000, 1009, {}, (1, 64, 32768)),
        (438_000_000, 32768, {}, (1024, 64, 1 << 19)),
        (438_000_000, 1000, {}, (1000, 64, 1 << 19)),
        (12_800_000, 4096, {}, (1024, 64, 128_000 - 65_536)),
        (2_800_000, 32768, {}, (1024, 64, 65536)),
        (5000, 256, {"lanes": 100, "block": 16, "window": 5}, (64, 16, 64)),
    ],
)
def test_sizes_depend_on_data_batch_and_what_is_asked_for(
    total: int, batch_size: int, asked: dict[str, int], expected: tuple[int, int, int]
) -> None:
    assert order_sizes(total, batch_size, **asked) == OrderSizes(*expected)


def test_order_of_a_seed_is_the_same_in_every_version() -> None:
    order = sampler_over([5, 4], 2, 0, lanes=2, block=2, window=4)
    assert order.order == OrderSizes(2, 2, 4)
    assert [lane_of(order, 0, lane) for lane in range(2)] == [
        [(1, 3), (1, 1), (1, 2), (1, 0), (0, 3)],
        [(0, 4), (0, 1), (0, 2), (0, 0)],
    ]


def test_generator_depends_on_seed_and_names_only() -> None:
    def draw(seed: int, *names: object) -> np.ndarray:
        return generator(seed, *names).integers(0, 2**62, 4)

    assert (draw(0, "crop", 1, "u") == draw(0, "crop", 1, "u")).all()
    for other in (draw(1, "crop", 1, "u"), draw(0, "crop", 2, "u"), draw(0, "crop", 1, "v"), draw(0, "crop1", "", "u")):
        assert (other != draw(0, "crop", 1, "u")).any()


def test_draws_of_a_seed_are_the_same_in_every_version() -> None:
    assert generator(3, "samples", 1, 2, 1).integers(0, 1000, 4).tolist() == [402, 224, 622, 635]
