"""Figures to Weights & Biases and MLflow, where the environment asks for them and they are installed.

A tracker is a service beside the run: it works in a thread of its own, and what it cannot do is logged and counted. It
never stops or delays a stage, and it never sees a literal value of `pods.env` or a credential in a URI.
"""

from __future__ import annotations

import importlib
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from diht_k8s.api.redaction import redacted_document, redacted_text
from diht_k8s.api.run import Stage

WANDB: Final = "WANDB_PROJECT"
MLFLOW: Final = "MLFLOW_TRACKING_URI"
RUN_TAG: Final = "diht.run"
"""Tag by which a restarted stage finds its MLflow run again."""
MAX_PARAM: Final = 500
"""Letters of a parameter that every MLflow server takes."""
FINISH_S: Final = 30.0
"""How long the end of a stage waits for what is still to be sent."""
FIGURES_ONLY: Final = {"console": "off", "disable_git": True, "disable_code": True, "x_disable_meta": True}
"""What Weights & Biases would otherwise send along: output, code, the command's arguments."""
WAITING: Final = 1000
"""Lines that wait for a slow tracker; later ones are dropped and counted."""

Figures = Mapping[str, float | int | None]


class Tracker(Protocol):
    """A run that is open at a tracker."""

    def log(self, figures: Figures, step: int | None) -> None:
        """Send figures, of a step or of the whole run."""
        ...

    def finish(self) -> None:
        """Send the rest."""
        ...


class Tracking:
    """The trackers of a stage, each behind a thread."""

    def __init__(self, opened: Mapping[str, Callable[[], Tracker]]) -> None:
        """Start a thread for each tracker, which opens it."""
        self._threads = [_Thread(name, begin) for name, begin in opened.items()]

    @property
    def failed(self) -> int:
        """Lines that a tracker did not take, and trackers that did not begin."""
        return sum(thread.failed for thread in self._threads)

    def log(self, figures: Figures, step: int | None = None) -> None:
        """Hand figures over; returns at once."""
        for thread in self._threads:
            thread.put((dict(figures), step))

    def finish(self) -> None:
        """Wait for what is still to be sent, at most `FINISH_S`."""
        for thread in self._threads:
            thread.put(None)
        end = time.monotonic() + FINISH_S
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
            if thread.is_alive():
                logging.warning(
                    "%s has not finished within %.0f s: figures may be missing there", thread.name, FINISH_S
                )


class _Thread(threading.Thread):
    def __init__(self, name: str, begin: Callable[[], Tracker]) -> None:
        super().__init__(name=name, daemon=True)
        self.failed = 0
        self._begin = begin
        self._lines: queue.Queue[tuple[dict[str, Any], int | None] | None] = queue.Queue(WAITING)
        self.start()

    def put(self, line: tuple[dict[str, Any], int | None] | None) -> None:
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self.failed += 1

    def run(self) -> None:
        try:
            tracker = self._begin()
        except (Exception, SystemExit) as error:  # a service with errors of its own
            self._warn("does not begin", error)
            return
        while (line := self._lines.get()) is not None:
            try:
                tracker.log(*line)
            except Exception as error:
                self._warn("did not take figures", error)
        try:
            tracker.finish()
        except Exception as error:
            self._warn("did not finish", error)

    def _warn(self, what: str, error: BaseException) -> None:
        self.failed += 1
        text = redacted_text(str(error)) or type(error).__name__
        logging.warning("%s %s (%d failures so far), the stage continues: %s", self.name, what, self.failed, text)


def start_tracking(run_name: str, stage: Stage, config: Mapping[str, Any]) -> Tracking:
    """The trackers that the environment names: `WANDB_PROJECT`, `MLFLOW_TRACKING_URI`; none where neither is set.

    Credentials, mode and experiment are read by the trackers from their own variables.

    Args:
        run_name: of the run document; a restart and the next stage go on in the same run.
        stage: below its name the configuration is shown.
        config: JSON, redacted here.
    """
    shown = {stage.value: loggable(config)}
    opened: dict[str, Callable[[], Tracker]] = {}
    for variable, module, name, begin in (
        (WANDB, "wandb", "Weights & Biases", _WeightsAndBiases),
        (MLFLOW, "mlflow", "MLflow", _MLflow),
    ):
        if not os.environ.get(variable):
            continue
        try:
            program = importlib.import_module(module)
        except ImportError as error:
            logging.warning("%s is set, but %s cannot be imported: no figures go there (%s)", variable, module, error)
            continue
        opened[name] = lambda begin=begin, program=program: begin(program, run_name, shown)
    return Tracking(opened)


def loggable(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without literal values of pods, and without credentials and queries of URIs."""
    return _without_credentials(redacted_document(config))


def _without_credentials(value: Any) -> Any:
    if isinstance(value, str):
        return redacted_text(value)
    if isinstance(value, Mapping):
        return {key: _without_credentials(item) for key, item in value.items()}
    return [_without_credentials(item) for item in value] if isinstance(value, list) else value


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Parameters as MLflow has them: dotted names, texts of at most `MAX_PARAM` letters."""
    found: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, Mapping) else {name: str(value)[:MAX_PARAM]}
    return found


class _WeightsAndBiases:
    def __init__(self, wandb: Any, run_name: str, config: Mapping[str, Any]) -> None:
        self._run = wandb.init(
            project=os.environ[WANDB],
            name=run_name,
            id=run_name,
            resume="allow",
            config=dict(config),
            settings=wandb.Settings(**FIGURES_ONLY),
        )

    def log(self, figures: Figures, step: int | None) -> None:
        known = {name: value for name, value in figures.items() if value is not None}
        if step is None:
            self._run.summary.update(known)
        else:
            self._run.log(known, step=step)

    def finish(self) -> None:
        self._run.finish()


class _MLflow:
    def __init__(self, mlflow: Any, run_name: str, config: Mapping[str, Any]) -> None:
        self._mlflow, self._client = mlflow, mlflow.MlflowClient()
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "diht")
        found = self._client.get_experiment_by_name(experiment)
        number = self._client.create_experiment(experiment) if found is None else found.experiment_id
        earlier = self._client.search_runs([number], f"tags.`{RUN_TAG}` = '{run_name}'", max_results=1)
        run = earlier[0] if earlier else self._client.create_run(number, run_name=run_name, tags={RUN_TAG: run_name})
        self._id = run.info.run_id
        known = run.data.params
        params = [mlflow.entities.Param(name, text) for name, text in flat(config).items() if name not in known]
        for start in range(0, len(params), 100):  # the most of one request
            self._client.log_batch(self._id, params=params[start : start + 100])

    def log(self, figures: Figures, step: int | None) -> None:
        now = int(1000 * time.time())
        metrics = [
            self._mlflow.entities.Metric(_metric_name(name), float(value), now, step or 0)
            for name, value in figures.items()
            if value is not None
        ]
        self._client.log_batch(self._id, metrics=metrics)

    def finish(self) -> None:
        self._client.set_terminated(self._id)


def _metric_name(name: str) -> str:
    """The name with the letters that MLflow takes only."""
    return "".join(letter if letter.isalnum() or letter in "_-. /" else "-" for letter in name)
