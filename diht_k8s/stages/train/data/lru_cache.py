"""A thread-safe LRU cache limited by weight: labels, indexes and keep lists that a reader keeps at hand."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class LruCache(Generic[Key, Value]):
    """Keeps the values that were used last; several threads may ask, and each value is made once."""

    def __init__(self, limit: int, weigh: Callable[[Value], int]) -> None:
        """Begin empty.

        Args:
            limit: on the sum of the weights; the value that was asked for last is always kept.
            weigh: the weight of a value.
        """
        self._limit, self._weigh = limit, weigh
        self._kept: OrderedDict[Key, Value] = OrderedDict()
        self._weight = 0
        self._lock = threading.Lock()

    def get(self, key: Key, make: Callable[[Key], Value]) -> Value:
        """The value of a key, made if it is not there."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            value = self._kept[key] = make(key)
            self._weight += self._weigh(value)
            while self._weight > self._limit and len(self._kept) > 1:
                _, dropped = self._kept.popitem(last=False)
                self._weight -= self._weigh(dropped)
            return value
