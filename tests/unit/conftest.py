"""Unit tests reach no network: what they need they make."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            raise AssertionError(f"a unit test tried to reach {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model is traced and its operations are counted once for all estimates."""
    from diht_k8s.stages.train.estimate import estimate
    from diht_k8s.stages.train.estimate.memory_trace import TracedStudent
    from diht_k8s.stages.train.flops import StepWork

    unread = ("micro_batch_size", "processes_per_node", "loader_workers")
    monkeypatch.setattr(estimate, "TracedStudent", _once(TracedStudent, "samples", "batch_size", *unread))
    monkeypatch.setattr(estimate, "StepWork", _once(StepWork, *unread))


@cache
def _once(make: Callable[..., Any], *unread: str) -> Callable[..., Any]:
    made: dict[str, Any] = {}

    def made_once(train: Any, **classes: int) -> Any:
        key = f"{train.model_dump_json(exclude=set(unread))} {classes}"
        if key not in made:
            made[key] = make(train, **classes)
        return made[key]

    return made_once
