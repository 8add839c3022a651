"""One rank of the training tests on the stand-in accelerator; otherwise `train_rank.py`.

Usage: stand_in_rank.py FOLDER, with torchrun's variables. Each process sees one device, or, where STAND_IN_DEVICES is
2, both of the machine; then it goes up to its first loss (see `test_stand_in.py`).
"""

from __future__ import annotations

import functools
import os
import sys
import time
from typing import Any

import torch

from tests.recipe.train import stand_in, stand_in_streams

stand_in.install()

from deepspeed.accelerator import real_accelerator  # noqa: E402  # after the device is there
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator  # noqa: E402

QUEUE = stand_in.Queue()


class Accelerator(CPU_Accelerator):
    """What DeepSpeed is told about the stand-in."""

    def __init__(self) -> None:
        super().__init__()
        self._name = "acc"

    def device_name(self, device_index: int | None = None) -> str:
        return "acc" if device_index is None else f"acc:{device_index}"

    def current_device_name(self) -> str:
        return f"acc:{stand_in.module.current_device()}"

    def current_device(self) -> int:
        return stand_in.module.current_device()

    def device(self, device_index: int | None = None) -> Any:
        return torch.device("acc", self.current_device() if device_index is None else device_index)

    def set_device(self, device_index: int) -> None:
        stand_in.module.set_device(device_index)

    def device_count(self) -> int:
        return 2

    def on_accelerator(self, tensor: torch.Tensor) -> bool:
        return tensor.device.type == "acc"

    def is_synchronized_device(self) -> bool:
        return False

    def synchronize(self, device_index: int | None = None) -> None:
        stand_in.module.synchronize()

    @property
    def Stream(self) -> Any:  # noqa: N802  # DeepSpeed's name
        return stand_in.Queue

    @property
    def Event(self) -> Any:  # noqa: N802  # DeepSpeed's name
        return stand_in.Queue

    def current_stream(self, device_index: int | None = None) -> Any:
        return QUEUE

    def default_stream(self, device_index: int | None = None) -> Any:
        return QUEUE

    @property
    def FloatTensor(self) -> Any:  # noqa: N802  # DeepSpeed's name
        return functools.partial(torch.tensor, dtype=torch.float, device=self.current_device_name())

    def communication_backend_name(self) -> str:
        return "strict"


real_accelerator.ds_accelerator = Accelerator()

from diht_k8s.api.documents import load  # noqa: E402
from diht_k8s.stages.train import collectives, engine, loop  # noqa: E402
from diht_k8s.stages.train.collectives import FlagsExchange, barrier, gather_objects  # noqa: E402
from diht_k8s.stages.train.loop import LastSave, Training  # noqa: E402
from tests.recipe.train import train_rank  # noqa: E402

collectives.device_type = lambda: "acc"
collectives.BACKENDS["acc"] = "strict"


def started(job: dict[str, Any]) -> dict[str, Any]:
    """A training up to its first loss, where the rank's device may be the second one."""
    training = Training(load(job["run"], name="job"), {})
    batches = training.loader.batches(training.cursor.position)
    batch = next(batches).on(training.engine.device)
    with torch.no_grad():
        features = training.engine._forward(batch, slice(None))
        loss, *_ = training.engine._averaged(training.engine._losses(features, batch)).tolist()
    training.stop.requested = training.rank == 1
    flags = training._exchange_flags(LastSave(time.monotonic(), 0), 0.0).wait()
    batches.close()
    barrier()
    devices = [str(device) for device in {parameter.device for parameter in training.model.parameters()}]
    return {"loss": loss, "stop": flags.stop, "devices": gather_objects(devices)}


def counting(job: dict[str, Any]) -> dict[str, Any]:
    """As `train_rank` does it, with the waits for the device of each step beside it, races, and a trace of the
    whole."""
    waits: list[dict[str, int]] = []
    places: list[dict[str, int]] = []
    step, begin, wait = engine.Engine.step, loop.exchange_flags, FlagsExchange.wait
    stand_in_streams.races.clear()
    stand_in_streams.trace.clear()

    def begun(*args: Any, **named: Any) -> Any:
        stand_in_streams.note("host", "begins the exchange")
        return begin(*args, **named)

    def waited(exchange: Any) -> Any:
        stand_in_streams.note("host", "has the exchange")
        return wait(exchange)

    def counted(self: Any, batch: Any, *, number: int) -> Any:
        stand_in.synchronisations.clear()
        stand_in.places.clear()
        stand_in_streams.note("host", "begins a step")
        found = step(self, batch, number=number)
        stand_in_streams.note("host", "ends the step")
        waits.append(dict(stand_in.synchronisations))
        places.append(dict(stand_in.places))
        return found

    engine.Engine.step, loop.exchange_flags, FlagsExchange.wait = counted, begun, waited
    try:
        done = recorded(job)
    finally:
        engine.Engine.step, loop.exchange_flags, FlagsExchange.wait = step, begin, wait
    seen = {"races": gather_objects(list(stand_in_streams.races)), "trace": list(stand_in_streams.trace)}
    return {**done, **seen, "waits": waits, "places": places}


recorded = train_rank.recorded


def main(folder: str) -> None:
    both = os.environ.get("STAND_IN_DEVICES") == "2"
    if not both:
        os.environ["LOCAL_RANK"] = "0"
    train_rank.recorded = started if both else counting
    with stand_in.Strict():
        train_rank.main(folder)


if __name__ == "__main__":
    main(sys.argv[1])
    train_rank.leave(0)
