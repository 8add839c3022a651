"""Which shorter training a longer one is offered to go on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from diht_k8s.api.hashing import sha256_of
from diht_k8s.api.layout import DIGITS, Layout
from diht_k8s.api.run import Stage
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.commit import commit, start
from diht_k8s.stages.train.shorter_sibling import offer_shorter_sibling

STORAGE = Storage()


def config(samples: int, inputs: str = "f", **fields: Any) -> dict[str, Any]:
    return {"stage": "train", "config": {"samples": samples, **fields}, "inputs": {"filter": inputs}}


def trained(output: Path, config: dict[str, Any], *, steps: tuple[int, ...] = (), complete: bool = False) -> str:
    """A training's folder with committed checkpoints and one that is not; its digits."""
    layout = Layout(str(output)).at(Stage.TRAIN, sha256_of(config))
    start(STORAGE, layout, Stage.TRAIN, config, {})
    for step in steps:
        STORAGE.write_bytes(f"{layout.checkpoints}/step-{step:09d}/COMMITTED.json", b"{}")
        STORAGE.write_bytes(f"{layout.checkpoints}/step-{step + 1:09d}/part", b"")
    if complete:
        commit(STORAGE, layout, Stage.TRAIN, config, [], {})
    return sha256_of(config)[:DIGITS]


def offered(output: Path, config: dict[str, Any]) -> str:
    return offer_shorter_sibling(STORAGE, Layout(str(output)).at(Stage.TRAIN, sha256_of(config)), config)


@pytest.mark.parametrize(
    ("other", "steps", "complete", "place"),
    [
        (config(10), (3, 5), True, "/checkpoints/step-000000005 --set train.initFrom.kind=Checkpoint"),
        (config(10), (3,), False, "/checkpoints/step-000000003 --set train.initFrom.kind=Checkpoint"),
        (config(10), (), True, "/model"),
        (config(10), (), False, None),
        (config(30), (3,), True, None),
        (config(20), (3,), True, None),
        (config(10, beta=1), (3,), True, None),
        (config(10, inputs="g"), (3,), True, None),
    ],
)
def test_training_that_differs_in_fewer_samples_alone_is_offered(
    tmp_path: Path, other: dict[str, Any], steps: tuple[int, ...], complete: bool, place: str | None
) -> None:
    digits = trained(tmp_path, other, steps=steps, complete=complete)
    assert offered(tmp_path, config(20)) == (
        ""
        if place is None
        else f"train/{digits} is the same training of 10 samples; to go on from it: "
        f"--set train.initFrom.uri={tmp_path}/train/{digits}{place}"
    )


def test_longest_is_offered_and_none_to_a_training_that_begins_elsewhere(tmp_path: Path) -> None:
    trained(tmp_path, config(5), complete=True)
    longest = trained(tmp_path, config(10), complete=True)
    assert f"train/{longest} is the same training of 10 samples" in offered(tmp_path, config(20))
    assert offered(tmp_path, config(20, initFrom={"uri": "there"})) == ""
