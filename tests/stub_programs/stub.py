"""A stage that ends as the environment variable DIHT_STUB says.

DIHT_STUB is JSON: stage (or stage-step) -> list of what its attempts do, one after another; the last entry repeats. An
entry is "ok", "hang" (until it is asked to stop), "kill" (SIGKILL to itself), "noise" (all that a log should not hold,
then exit code 75), "elsewhere" (another run computes it), or an exit code. "hang" counts steps in a file, as a
checkpoint does, and resumes from it. An object {"train": n, "then": entry} trains n steps, saving each fourth one,
before it ends; what each step took goes to the file `steps` of the output. An object {"gate": entry} waits until the
file `gate` of the output has a byte for this attempt, then does what the entry says; meanwhile it says that it was
restarted in place as often as the file `restarts` has bytes.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diht_k8s.api.errors import ComputedElsewhere, DataError, DihtError, RetryableError, UserError
from diht_k8s.api.layout import Layout, join
from diht_k8s.api.reports import ROUNDS_VARIABLE, Rounds
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.commit import artefact, read_committed
from diht_k8s.runtime.progress import Reporter
from diht_k8s.runtime.stage import Context, Outcome

NOISE = [
    "x" * 1_000_000,
    '{"diht":"progress","stage":',
    '{"diht":"progress"}',
    "\x1b[31mred\x1b[0m\x1b]0;title\x07 \x00",
]
STEP_S, SAVED_EACH, STALL_S = 0.03, 4, 0.02
ERRORS: dict[int, type[DihtError]] = {64: UserError, 65: DataError, 75: RetryableError, 1: DihtError}


class Stub:
    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def identify(self, run: DihtRun, storage: Storage, layout: Layout) -> tuple[Mapping[str, str], Mapping[str, str]]:
        before = [stage for stage in run.spec.stages if list(Stage).index(stage) < list(Stage).index(self.stage)]
        return {stage.value: read_committed(storage, layout, stage).output_sha256 for stage in before[-1:]}, {}

    def reads(self, run: DihtRun, storage: Storage, layout: Layout, config: Mapping[str, Any]) -> dict[str, str]:
        return {}

    def execute(self, context: Context) -> Outcome | None:
        folder = context.layout.stage(self.stage)
        part = f"{self.stage}-{context.step}" if context.step else self.stage.value
        counts = [f"attempts-{part}-{worker}" for worker in range(context.workers)]
        number = _size(context, counts[context.worker])
        context.storage.write_bytes(join(context.layout.output, counts[context.worker]), b"x" * (number + 1))
        entries = json.loads(os.environ.get("DIHT_STUB", "{}")).get(part, ["ok"])
        what = entries[min(number, len(entries) - 1)]
        if isinstance(what, dict) and "gate" in what:
            self._wait_at_gate(context, number)
            what = what["gate"]
        if what == "elsewhere":  # ended before it has counted this attempt, a worker would do so in the next one, too
            while any(_size(context, count) <= number for count in counts):
                context.stop.raise_if_requested()
                time.sleep(0.1)
        self._end(context, folder, what)
        if context.step not in ("", "predict"):
            return None
        context.storage.write_bytes(join(folder, f"part-{context.worker}"), b"x")
        while _parts(context.storage, folder) < context.workers:  # a worker succeeds only once the stage is committed
            if context.storage.exists(context.layout.committed(self.stage)):
                return None
            context.stop.raise_if_requested()
            time.sleep(0.1)
        context.storage.write_bytes(join(folder, "result.json"), json.dumps(context.config).encode())
        return Outcome([artefact(context.storage, context.layout, self.stage, "result.json")], {"steps": 3})

    def present(self, run: DihtRun, storage: Storage, layout: Layout) -> None:
        pass

    def _wait_at_gate(self, context: Context, number: int) -> None:
        said = 0
        while _size(context, "gate") <= number:
            context.stop.raise_if_requested()
            if (restarts := _size(context, "restarts")) > said:
                said = restarts
                os.environ[ROUNDS_VARIABLE] = Rounds(round=said + 1, exit_code=75, message="lost").model_dump_json()
                Reporter(self.stage, worker=context.worker).start("waiting", 3, unit="steps")
            time.sleep(0.1)

    def _train(self, context: Context, steps: int) -> None:
        clock, saved = context.progress.time, Path(context.layout.output, "saved")
        at = json.loads(saved.read_text()) if saved.exists() else {"step": 0, "productive": 0.0}
        clock.resumed(at["productive"])
        step, since = at["step"], time.monotonic()
        context.progress.start("training", 1000, done=step, unit="steps")
        for _ in range(steps):
            time.sleep(STEP_S)
            step += 1
            with Path(context.layout.output, "steps").open("a") as file:
                now = time.monotonic()
                file.write(f"{step} {now - since}\n")
                since = now
            if step % SAVED_EACH == 0:
                productive = clock.productive
                clock.enter("checkpoints")
                time.sleep(STALL_S)
                saved.write_text(json.dumps({"step": step, "productive": productive}))
                clock.enter("steps")
                clock.checkpoint_committed(productive)
                since = time.monotonic()
            context.progress.update(step)

    def _end(self, context: Context, folder: str, what: Any) -> None:
        if isinstance(what, dict):
            self._train(context, what["train"])
            if what["then"] in ERRORS:
                error = ERRORS[what["then"]]("a fault that was injected: nothing to do")
                error.details = {"time_spent": context.progress.time.spent()}
                raise error
            return self._end(context, folder, what["then"])
        context.progress.start("stubbing", 3, unit="steps")
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "noise":
            _make_noise()
            what = 75
        if what == "elsewhere":
            raise ComputedElsewhere("this training is computed by run other: start again to take its result")
        if isinstance(what, int):
            raise ERRORS[what](f"{self.stage} was told to end with {what}: nothing to do")
        if what == "hang":
            context.storage.write_bytes(join(folder, f"pid-{context.worker}"), str(os.getpid()).encode())
        saved = join(folder, "step")
        step = len(context.storage.read_bytes(saved)) if context.storage.exists(saved) else 0
        while what == "hang":
            step += 1
            context.storage.write_bytes(saved, b"x" * step)
            context.progress.update(1, {"loss": 1.0 / step})
            context.stop.raise_if_requested(f"step {step} is saved")
            time.sleep(0.05)
        context.progress.update(3, {"loss": 0.25})
        return None


def _size(context: Context, name: str) -> int:
    uri = join(context.layout.output, name)
    return len(context.storage.read_bytes(uri)) if context.storage.exists(uri) else 0


def _parts(storage: Storage, folder: str) -> int:
    return sum(name.startswith("part-") for name in storage.names(folder))


def _make_noise() -> None:
    """A line of 1 MB, progress that is no JSON, terminal escapes; once more later, when the operator reads the log."""
    for _ in range(2):
        sys.stdout.buffer.write("\n".join([*NOISE, ""]).encode() + b"\xff\n")
        sys.stdout.flush()
        time.sleep(1)
