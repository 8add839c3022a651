from __future__ import annotations

import pytest

from diht_k8s.stages.train.telemetry import Spikes, slowest


def losses(*, level: float = 4.0, noise: float = 0.05, number: int = 100) -> list[float]:
    return [level + noise * (-1) ** index for index in range(number)]


@pytest.mark.parametrize(
    ("before", "loss", "spike"),
    [
        (losses(), 4.2, False),
        (losses(), 4.9, True),
        (losses(), 3.0, False),
        (losses(noise=1e-6), 4.1, False),
        (losses(noise=1e-6), 4.3, True),
        (losses(number=99), 40.0, False),
    ],
    ids=["usual", "jump", "fall", "flat, small", "flat, jump", "too early"],
)
def test_spikes_when_a_loss_comes_then_only_jumps_count(before: list[float], loss: float, spike: bool) -> None:
    spikes = Spikes()
    assert [spikes.add(value) for value in before] == [None] * len(before)
    assert (spikes.add(loss) is not None) is spike
    assert spikes.count == int(spike)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [([1.0], (0, 1.0)), ([1.0, 3.0], (1, 3.0)), ([2.0, 2.0, 2.0, 5.0], (3, 2.5)), ([0.0, 0.0], (0, 1.0))],
)
def test_slowest_when_ranks_took_their_time_then_the_one_that_others_waited_for(
    seconds: list[float], expected: tuple[int, float]
) -> None:
    assert slowest(seconds) == expected
