"""`diht run` without waits between attempts: `python -m tests.contract.faulty_run DOCUMENT`, prints what the time went to."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from diht_k8s.api.documents import load
from diht_k8s.api.reports import Progress
from diht_k8s.api.run import Stage
from diht_k8s.cli.local_runner import LocalRunner, StopSignals
from diht_k8s.cli.placement import place, this_machine
from diht_k8s.launch.local_jobs import LocalJobs
from diht_k8s.pipeline.failure_policy import BackOff
from diht_k8s.pipeline.goodput import time_parts


@dataclass
class Times:
    """A display that notes when something was shown."""

    shown: list[float] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Nothing."""

    def progress(self, progress: Progress) -> None:
        """Nothing."""

    def state(self, stage: Stage, text: str, *, ended: bool = False) -> None:
        """Note the time."""
        self.shown.append(time.time())


def main(path: str) -> None:
    """Run it."""
    machine, times = this_machine(), Times()
    run, _ = place(load(Path(path).read_text(), name=path), machine, None)
    with contextlib.closing(LocalJobs(Path(path).parent / "logs")) as jobs:
        loop = LocalRunner(run, jobs, times, machine, StopSignals(), back_off=BackOff(0.0, 0.0))
        status = loop.execute()
    record = next(stage for stage in status.stages if stage.stage is Stage.TRAIN)
    shown = {
        "wall": times.shown[-1] - times.shown[0],
        "attempts": record.attempt,
        "start_up": dict(record.time.start_up),
    }
    print(json.dumps({"state": status.state, **shown, "parts": asdict(time_parts(record.time))}))


if __name__ == "__main__":
    main(sys.argv[1])
