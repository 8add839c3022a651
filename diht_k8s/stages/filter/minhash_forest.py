"""An LSH forest of MinHash keys, in memory: near-duplicates among very many fingerprints in linear time.

Two fingerprints are near-duplicates when they differ in at most a quarter of the steps that either has, which is a
Jaccard similarity of their sets of steps of at least 3/4. MinHash draws one value from each set such that two sets draw
the same one with a probability of their similarity (Broder 1997), for few steps as for many: keys of plain bits would
gather all images on white in few groups. The 256 steps are permuted once and cut into 16 lanes; a value is the first
step of a lane under one of 16 orders (one permutation hashing: Li, Owen and Zhang 2012).

A *root* is a key of the values of 4 lanes. It decides the partition of an image, once in each of ROOTS tables;
candidates share a root. Lanes and tables are points and lines of the affine plane of order 4: the tables of a parallel
class share no lane and two tables at most one, so steps that differ seldom spoil all roots (a pair at the limit shares
none in 5 of 10,000 cases; in 80 with tables drawn at random).

In a partition each of TREES trees sorts the images by values of the other lanes, and takes as many of them as make
groups of at most GROUP images (LSH forest: Bawa, Condie and Ganesan 2005). So an image has a bounded number of
candidates however large the pool is, small pools are compared nearly in full, and crowded regions get longer keys. All
images of a group are compared exactly.

Shapes: N images, L lanes. Everything depends on the fingerprints of one partition alone, never on a worker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Final

import numpy as np

from diht_k8s.stages.filter.fingerprints import FEW_BITS, MAX_DIFFERENCE, STEPS

ROOTS: Final = 16
"""Tables: the lines of four of the five parallel classes."""
TREES: Final = 3
"""Trees in each partition, which begin with different lanes; 48 in all."""
GROUP: Final = 64
"""Images of a group of which all pairs are compared."""
DEPTH: Final = 10
"""Values by which a tree may split; larger groups left after that are nearly equal images (see `_followers`)."""
LEADERS: Final = 64
"""Images of such a group that are compared with all later ones."""
BLOCK: Final = 1 << 15
"""Images whose pairs are compared at once, so that they stay in the processor's cache."""

_LANES: Final = 16
_ORDERS: Final = 16
_VALUE_BITS: Final = np.uint64(4)
_BOTH: Final = np.float32(2 - MAX_DIFFERENCE)
_SUM: Final = np.float32(1 - MAX_DIFFERENCE)
"""Weights of the steps that both have and of the sum of each one's: differing <= MAX_DIFFERENCE * either."""
_PRODUCTS: Final = ((0, 0, 0, 0), (0, 1, 2, 3), (0, 2, 3, 1), (0, 3, 1, 2))
"""Multiplication in the field of four elements; addition is exclusive or."""


def permuted(bits_N4: np.ndarray) -> np.ndarray:
    """Fingerprints with their steps in the order of the lanes, uint64, [N, 4]; what two have in common stays."""
    order, permuted_N4 = _generator(999).permutation(STEPS * STEPS), np.empty(bits_N4.shape, np.uint64)
    for start in range(0, len(bits_N4), BLOCK):
        steps = np.unpackbits(np.ascontiguousarray(bits_N4[start : start + BLOCK]).view(np.uint8), axis=1)
        permuted_N4[start : start + BLOCK] = np.packbits(np.take(steps, order, axis=1), axis=1).view(np.uint64)
    return permuted_N4


def lanes(permuted_N4: np.ndarray) -> np.ndarray:
    """Permuted fingerprints as lanes of 16 bits, [N, 16], column by column in memory."""
    return np.asfortranarray(np.ascontiguousarray(permuted_N4).view(np.uint16))


def has_steps(bits_N4: np.ndarray) -> np.ndarray:
    """Masks the images with enough steps to be compared, [N]."""
    return np.bitwise_count(bits_N4).sum(axis=1) >= FEW_BITS


def root(lanes_NL: np.ndarray, table: int) -> np.ndarray:
    """Each image's root in one of the ROOTS tables, [N], uint64."""
    lanes, parallel_class = _line(table)
    return _values(lanes_NL, lanes, [parallel_class] * len(lanes))


def earlier_equals(bits_N4: np.ndarray) -> np.ndarray:
    """Masks the images that equal an earlier one, [N]; the fingerprints are in the order of the pool."""
    # a multiplicative hash instead of a sort by four words; the few images with equal hashes are then compared in full
    mixed_N = np.zeros(len(bits_N4), np.uint64)
    for word in range(bits_N4.shape[1]):
        mixed_N = (mixed_N ^ bits_N4[:, word]) * np.uint64(0x9E3779B97F4A7C15)
        mixed_N ^= mixed_N >> np.uint64(29)
    order_N, equal_N = np.argsort(mixed_N), np.zeros(len(bits_N4), bool)
    mixed_N = mixed_N[order_N]
    same = np.flatnonzero(mixed_N[1:] == mixed_N[:-1])
    some = np.sort(order_N[np.union1d(same, same + 1)])
    _, first, inverse = np.unique(bits_N4[some], axis=0, return_index=True, return_inverse=True)
    equal_N[some] = first[inverse.reshape(-1)] < np.arange(len(some))
    return equal_N


def earlier_alike(bits_N4: np.ndarray, table: int, between: Callable[[], object] = lambda: None) -> np.ndarray:
    """Masks the near-duplicates of an earlier image that has the same root, [N].

    Args:
        bits_N4: distinct fingerprints, `permuted`, in the order of the pool.
        table: the table whose roots count.
        between: called before each tree.
    """
    lanes_NL, alike_N = lanes(bits_N4), np.zeros(len(bits_N4), bool)
    roots_N = root(lanes_NL, table) << (_VALUE_BITS * np.uint64(DEPTH))
    for tree in range(TREES):
        between()
        keys_N = _values(lanes_NL, *_branch(table, tree)) | roots_N
        order_N = np.argsort(keys_N)
        ends_N, large = _groups(keys_N[order_N])
        for begin, end in _blocks(ends_N):
            order = order_N[begin:end]
            alike_N[_later_of_pairs(bits_N4[order], order, ends_N[begin:end] - begin)] = True
        for begin, end in large:
            alike_N[_followers(bits_N4, np.sort(order_N[begin:end]))] = True
    return alike_N


def _groups(keys_N: np.ndarray) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """The groups of a tree, from its sorted keys.

    Returns:
        For each place the end of its group of at most GROUP images, and the bounds of the groups that DEPTH values do
        not make small enough; their places count as groups of one.
    """
    ends_N, open_N = np.arange(1, len(keys_N) + 1), np.arange(len(keys_N))
    starts = sizes = np.empty(0, np.int64)
    for depth in range(DEPTH + 1):  # the open places are whole groups of the level before, so that groups stay adjacent
        prefixes = keys_N[open_N] >> (_VALUE_BITS * np.uint64(DEPTH - depth))
        first = np.append(True, prefixes[1:] != prefixes[:-1])[: len(prefixes)]
        starts = np.flatnonzero(first)
        sizes = np.diff(np.append(starts, len(open_N)))
        small = np.repeat(sizes <= GROUP, sizes)
        ends_N[open_N[small]] = np.repeat(open_N[starts] + sizes, sizes)[small]
        starts, sizes = open_N[starts[sizes > GROUP]], sizes[sizes > GROUP]
        open_N = open_N[~small]
    return ends_N, [(int(start), int(start + size)) for start, size in zip(starts, sizes, strict=True)]


def _blocks(ends_N: np.ndarray) -> Iterator[tuple[int, int]]:
    """Bounds of blocks of whole groups."""
    begin = 0
    while begin < len(ends_N):
        end = int(ends_N[min(begin + BLOCK, len(ends_N)) - 1])
        yield begin, end
        begin = end


def _later_of_pairs(bits_N4: np.ndarray, numbers_N: np.ndarray, ends_N: np.ndarray) -> np.ndarray:
    """The later number of each pair of near-duplicates within the groups of a block.

    Args:
        bits_N4: fingerprints in the order of a tree.
        numbers_N: their places in the order of the pool.
        ends_N: the end of each place's group.
    """
    words_4N, counts_4N = np.ascontiguousarray(bits_N4.T), np.bitwise_count(bits_N4.T)
    steps_N, rest_N = counts_4N.sum(axis=0, dtype=np.float32), counts_4N[2:].sum(axis=0, dtype=np.float32)
    needed_N = steps_N * _SUM
    left_N = (ends_N - np.arange(1, len(ends_N) + 1)).astype(np.uint8)  # places of the group behind each
    places, found = np.flatnonzero(left_N), [np.empty(0, np.int64)]
    for distance in range(1, GROUP):
        if not len(places):
            break
        few = 3 * len(places) <= len(ends_N)  # else slices are faster than lists of places
        one, other = (places, places + distance) if few else (slice(None, -distance), slice(distance, None))
        both_N = np.bitwise_count(words_4N[0][one] & words_4N[0][other])
        both_N += np.bitwise_count(words_4N[1][one] & words_4N[1][other])
        at_most_N = np.minimum(rest_N[one], rest_N[other]) + both_N  # half of the words refute almost all pairs
        hits = np.flatnonzero(at_most_N * _BOTH >= needed_N[one] + needed_N[other])
        hits = places[hits] if few else hits[left_N[hits] >= distance]
        hits = hits[_alike(words_4N[:, hits], words_4N[:, hits + distance], steps_N[hits], steps_N[hits + distance])]
        found.append(np.maximum(numbers_N[hits], numbers_N[hits + distance]))
        places = places[left_N[places] > distance]
    return np.concatenate(found)


def _followers(bits_N4: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Of a large group of images that nearly equal each other: those that are near-duplicates of an earlier one.

    The first image is compared with all others, then the first of those that it does not cover, at most LEADERS times.
    """
    found = [np.empty(0, np.int64)]
    for _ in range(LEADERS):
        if len(numbers) < 2:
            break
        own_4, others_N4 = bits_N4[numbers[0]], bits_N4[numbers[1:]]
        steps = np.bitwise_count(others_N4).sum(axis=1, dtype=np.uint16)
        alike = _alike(own_4[:, None], others_N4.T, np.bitwise_count(own_4).sum(dtype=np.uint16), steps)
        found.append(numbers[1:][alike])
        numbers = numbers[1:][~alike]
    return np.concatenate(found)


def _alike(one_4N: np.ndarray, other_4N: np.ndarray, steps_N: np.ndarray, other_steps_N: np.ndarray) -> np.ndarray:
    """Masks the near-duplicate pairs, as `fingerprints.is_near_duplicate` has them, by the steps that both have."""
    both_N = np.bitwise_count(one_4N[0] & other_4N[0]).astype(np.uint16)
    for word in range(1, len(one_4N)):
        both_N += np.bitwise_count(one_4N[word] & other_4N[word])
    return both_N * _BOTH >= (steps_N + other_steps_N) * _SUM


def _values(lanes_NL: np.ndarray, lanes: Sequence[int], orders: Sequence[int]) -> np.ndarray:
    """A key of the values of some lanes, each under an order; the first one in the highest bits, [N], uint64."""
    values_N = np.zeros(len(lanes_NL), np.uint64)
    for lane, order in zip(lanes, orders, strict=True):
        values_N <<= _VALUE_BITS
        values_N |= _first_steps(order)[lanes_NL[:, lane]]
    return values_N


def _line(table: int) -> tuple[list[int], int]:
    """The lanes of a table, a line of the affine plane over the field of four elements, and its parallel class.

    Points are (x, y) = x * 4 + y; the lines of class m are y = m x + b.
    """
    slope, offset = divmod(table, 4)
    return [4 * x + (_PRODUCTS[slope][x] ^ offset) for x in range(4)], slope


def _branch(table: int, tree: int) -> tuple[list[int], list[int]]:
    """The lanes by which a tree splits, DEPTH of those that are not in the root, and the order of each."""
    generator, (used, _) = _generator(table), _line(table)
    others = generator.permutation([lane for lane in range(_LANES) if lane not in used])
    lanes = np.roll(others, -tree * (len(others) // TREES))[:DEPTH]
    return lanes.tolist(), generator.integers(_ORDERS, size=(TREES, DEPTH))[tree].tolist()


@cache
def _first_steps(order: int) -> np.ndarray:
    """For each content of a lane its first step under an order, [65536]; 15 without a step."""
    contents, first = np.arange(1 << _LANES, dtype=np.uint32), np.full(1 << _LANES, _LANES - 1, np.uint8)
    places = _generator(1000 + order).permutation(_LANES)
    for position in reversed(range(_LANES)):
        first[(contents >> places[position]) & 1 == 1] = position
    return first


def _generator(number: int) -> np.random.Generator:
    """A fixed source of orders: which candidates are compared must be the same for all workers and versions."""
    return np.random.Generator(np.random.PCG64(number))
