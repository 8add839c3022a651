"""`diht watch`: a run of a cluster on the display of `diht run`, until it has ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from rich.console import Console

from diht_k8s.api.errors import ExitCode, RetryableError
from diht_k8s.api.reasons import ConditionType, Reason
from diht_k8s.api.reports import Progress
from diht_k8s.api.run import Stage
from diht_k8s.api.status import StageState, StageStatus, Status
from diht_k8s.api.status_reading import read_status
from diht_k8s.cli.display import Display, goodput_lines, open_display
from diht_k8s.cli.status_sentences import avoids, event_sentence, on_fewer_nodes, sentence
from diht_k8s.controller.saved_status import condition, is_true
from diht_k8s.kube.runs import RunClient, run_client

EVERY_S: Final = 2.0
MOST_SILENCE_S: Final = 300.0
"""How long the API server may be unreachable before the command gives up; the run itself continues."""
EXIT_CODES: Final = {
    Reason.USER_ERROR: ExitCode.USER_ERROR,
    Reason.BAD_DATA: ExitCode.BAD_DATA,
    Reason.STOPPED: ExitCode.STOPPED,
}


def watch(name: str, namespace: str | None) -> int:
    """Show a run until it has ended; 0 if it is complete, else the code of its failure."""
    kube = run_client(namespace)
    spec = kube.run(name)["spec"]
    shown = [stage for stage in Stage if stage.value in spec]
    with open_display(shown, Console(), time.monotonic) as display:
        return Watcher(kube, name, display).follow()


@dataclass
class Watcher:
    """Follows one run."""

    kube: RunClient
    name: str
    display: Display
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _shown_events: set[str] = field(default_factory=set)
    _last: Status = field(default_factory=Status)
    _fewer_nodes: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """what was said last of the nodes of each stage."""

    def follow(self) -> int:
        """Follow the run until it has ended; the exit code."""
        heard_at = self.clock()
        while True:
            try:
                document = self.kube.run(self.name)
                self.show(document)
                heard_at = self.clock()
            except RetryableError as error:
                if self.clock() - heard_at > MOST_SILENCE_S:
                    raise
                self.display.note(f"{error}; retrying")
            if (code := self.end()) is not None:
                self.display.note(sentence(self.name, self._last))
                for line in goodput_lines(self._last):
                    self.display.note(line)
                return code
            self.sleep(EVERY_S)

    def end(self) -> int | None:
        """The exit code of a run that has ended; None while it runs."""
        if is_true(self._last, ConditionType.COMPLETE):
            return ExitCode.DONE
        failed = condition(self._last, ConditionType.FAILED)
        if failed is None or failed.status != "True":
            return None
        return EXIT_CODES.get(failed.reason, ExitCode.UNEXPECTED)

    def show(self, document: dict[str, Any]) -> None:
        """Show what has changed."""
        before, status = self._last, read_status(document.get("status")).status
        self._last = status
        for event in self.kube.events(document["metadata"]["uid"]):
            if event["metadata"]["uid"] not in self._shown_events:
                self._shown_events.add(event["metadata"]["uid"])
                self.display.note(event_sentence(event))
        old = {stage.name: stage for stage in before.stages}
        for stage in status.stages:
            if _state(old.get(stage.name)) != _state(stage):
                self._show_stage(stage, status)
            self._show_failures(stage, old.get(stage.name))
            self._show_nodes(stage, status)
        if status.progress != before.progress:
            self._show_progress(status)
        if _attempts(before) != _attempts(status) and before.stages:
            for line in goodput_lines(status)[:1]:
                self.display.note(line)
        if status.last_checkpoint is not None and status.last_checkpoint != before.last_checkpoint:
            self.display.note(f"checkpoint of step {status.last_checkpoint.step} is committed")

    def _show_failures(self, stage: StageStatus, old: StageStatus | None) -> None:
        """Rounds that began in place, and nodes that are avoided from now on."""
        now, was = stage.restarts_in_place, (old.restarts_in_place if old is not None else None)
        if now is not None and now != was:
            self.display.note(f"{stage.name}: round {now.restarts + 1} of attempt {now.attempt}: {now.message}")
        if stage.avoid_nodes and (old is None or old.avoid_nodes != stage.avoid_nodes):
            self.display.note(avoids(stage))

    def _show_nodes(self, stage: StageStatus, status: Status) -> None:
        """On how many nodes an elastic training is, once it runs on fewer than it wishes for."""
        lines = on_fewer_nodes(stage, status) if stage.state is StageState.RUNNING else []
        if lines != self._fewer_nodes.get(stage.name, []):
            self._fewer_nodes[stage.name] = lines
            for line in lines:
                self.display.note(line)

    def _show_stage(self, stage: StageStatus, status: Status) -> None:
        last = [each for each in status.stages if each.stage is stage.stage][-1]
        ended = stage.state in (StageState.COMPLETE, StageState.CACHED) and stage is last
        step = f"{stage.name.partition('-')[2]}: " if stage is not last or "-" in stage.name else ""
        attempt = f", attempt {stage.attempt}" if stage.attempt > 1 else ""
        fewer = stage.nodes is not None and stage.wished_nodes is not None and stage.nodes < stage.wished_nodes
        nodes = f", {stage.nodes} of {stage.wished_nodes} nodes" if fewer else ""
        if stage.state is not StageState.PENDING:
            self.display.state(stage.stage, f"{step}{stage.state.value.lower()}{attempt}{nodes}", ended=ended)

    def _show_progress(self, status: Status) -> None:
        progress = status.progress
        current = next((each for each in status.stages if progress and each.name == progress.stage), None)
        if progress is None or current is None or not progress.step or current.state is not StageState.RUNNING:
            return
        line = Progress(
            stage=current.stage,
            step=progress.step,
            done=progress.done,
            total=progress.total,
            unit=progress.unit,
            per_second=float(progress.samples_per_second or 0.0),
            eta_seconds=progress.estimated_remaining_seconds,
            metrics={metric.name: float(metric.value) for metric in progress.metrics},
        )
        self.display.progress(line)


def _attempts(status: Status) -> list[tuple[str, int]]:
    return [(stage.name, stage.attempt) for stage in status.stages]


def _state(stage: StageStatus | None) -> tuple[StageState, int] | None:
    return (stage.state, stage.attempt) if stage is not None else None
