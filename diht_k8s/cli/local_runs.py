"""`diht status`, `list` and `logs` of runs on this machine, from their output folders and locks."""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from diht_k8s.api.documents import load
from diht_k8s.api.errors import DihtError, ExitCode, UserError
from diht_k8s.api.layout import Layout
from diht_k8s.api.reports import Cause, Committed, parse_progress
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.cli.display import amount, speed
from diht_k8s.cli.document import output_of

FOLDER: Final = "runs"
DEPTH: Final = 3
"""Folders below the one that is listed."""
POLL_S: Final = 0.5


@dataclass(frozen=True)
class LocalStage:
    """The state of a stage, from its folder."""

    stage: str
    state: str
    """complete, begun or waiting."""
    says: str = ""


@dataclass(frozen=True)
class LocalRun:
    """The state of a run, from its output folder."""

    name: str
    output: str
    state: str
    """complete, running, failed, stopped or waiting."""
    stages: list[LocalStage]
    says: str = ""
    """why it failed, or how far its stage is."""
    changed: str = ""
    """when a log or marker was last written."""


def local_output(path: str) -> Path | None:
    """The local output folder of a run, given itself or by the run document; None where it is neither.

    Raises:
        UserError: the document is wrong, or its output is not on this machine.
    """
    folder = Path(path.removeprefix("file://")).expanduser()
    if folder.is_dir():
        return folder if (folder / "run.json").is_file() or (folder / "logs").is_dir() else None
    output = output_of(path) if folder.is_file() else None
    if output is None:
        return None
    if output.startswith("s3://"):
        raise UserError(f"{path}: the output {output} is not on this machine: name the run to ask the cluster")
    return Path(output.removeprefix("file://")).expanduser()


def status_of(output: Path) -> LocalRun:
    """The state of the run in a folder.

    Raises:
        UserError: no run has begun there.
    """
    document = output / "run.json"
    if not document.is_file():
        raise UserError(f"no run has begun in {output}: start it by diht run")
    run = load(document.read_text(), name=str(document))
    layout = Layout(str(output))
    stages = [_stage(layout, stage) for stage in run.spec.stages]
    says, state = "", "stopped"
    if all(stage.state == "complete" for stage in stages):
        state = "complete"
    elif _is_locked(output):
        state, says = "running", _progress(output)
    elif (cause := _cause(output)) is not None and cause.exit_code != ExitCode.STOPPED:
        state, says = "failed", cause.message
    elif all(stage.state == "waiting" for stage in stages):
        state = "waiting"
    return LocalRun(run.metadata.name, str(output), state, stages, says, _changed(output, run))


def _stage(layout: Layout, stage: Stage) -> LocalStage:
    marker = Path(layout.committed(stage))
    try:
        committed = Committed.model_validate_json(marker.read_text())
    except OSError:
        begun = Path(layout.started(stage)).is_file()
        return LocalStage(stage.value, "begun" if begun else "waiting")
    except ValidationError:
        return LocalStage(stage.value, "begun", f"{marker} is damaged")
    return LocalStage(stage.value, "complete", _figures(committed.summary))


def _figures(summary: dict[str, Any]) -> str:
    counts = summary.get("counts")
    if isinstance(counts, dict):
        return f"{counts['kept']:,} of {counts['input']:,} pairs kept"
    return ", ".join(f"{summary[name]:,} {name}" for name in ("samples", "steps") if isinstance(summary.get(name), int))


def _is_locked(output: Path) -> bool:
    """Whether a `diht run` works on the folder."""
    try:
        handle = os.open(output / "logs" / "lock", os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _progress(output: Path) -> str:
    attempt = _newest_attempt(output, None)
    logs = [] if attempt is None else sorted(attempt.glob("*/*/*/stdout.log"))
    for log in logs:
        with log.open(errors="replace") as file:
            for line in reversed(deque(file, 200)):
                if (found := parse_progress(line)) is not None:
                    return f"{found.stage}: {found.step}: {amount(found)} {speed(found)}".rstrip()
    return ""


def _cause(output: Path) -> Cause | None:
    attempt = _newest_attempt(output, None)
    found = [] if attempt is None else sorted(attempt.glob("cause-*.json"), key=lambda path: path.stat().st_mtime_ns)
    try:
        return Cause.model_validate_json(found[0].read_text()) if found else None
    except (OSError, ValidationError):
        return None


def _newest_attempt(output: Path, stage: str | None) -> Path | None:
    """The folder of the newest attempt at a stage or step; at any without one."""
    steps = {"label": ("vocabulary", "heads", "predict", "label")}.get(stage or "", (stage,))
    steps = tuple(step.removeprefix("label-") for step in steps if step)
    found = [path for path in (output / "logs").glob("*") if path.is_dir()]
    found = [
        path for path in found if not steps or path.name.rpartition("-")[0].endswith(tuple(f"-{s}" for s in steps))
    ]
    return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)


def _changed(output: Path, run: DihtRun) -> str:
    layout = Layout(str(output))
    paths = [output / "run.json", *(Path(layout.committed(stage)) for stage in run.spec.stages), *output.glob("logs/*")]
    newest = max(path.stat().st_mtime for path in paths if path.exists())
    return datetime.fromtimestamp(newest, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def status_command(output: Path, *, as_json: bool) -> int:
    """Print the state of a run; the exit code."""
    found = status_of(output)
    if as_json:
        print(json.dumps(asdict(found)))
        return ExitCode.DONE
    print(f"{found.name}: {found.state}{f': {found.says}' if found.says else ''}")
    for stage in found.stages:
        print(f"  {stage.stage:<9} {stage.state}{f': {stage.says}' if stage.says else ''}")
    print(f"  output    {found.output}, last changed {found.changed}")
    return ExitCode.DONE


def list_command(folder: str, *, as_json: bool) -> int:
    """Print the runs below a folder; the exit code."""
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise UserError(f"{folder} is no folder: name the one in which runs write their output, or --namespace for a cluster's")  # fmt: skip
    found: list[LocalRun] = []
    for path in _outputs(root):
        try:
            found.append(status_of(path))
        except DihtError as error:
            print(f"diht: {path}: {error}", file=sys.stderr)
    if as_json:
        print(json.dumps([asdict(each) for each in found]))
        return ExitCode.DONE
    width = max((len(each.name) for each in found), default=0)
    for each in sorted(found, key=lambda each: each.changed, reverse=True):
        print(f"{each.name:<{width}}  {each.state:<8}  {each.changed}  {each.output}")
    if not found:
        print(f"no runs below {folder}")
    return ExitCode.DONE


def _outputs(root: Path) -> list[Path]:
    patterns = ("/".join(["*"] * depth + ["run.json"]) for depth in range(DEPTH + 1))
    return sorted({path.parent for pattern in patterns for path in root.glob(pattern)})


def logs_command(output: Path, stage: str | None, *, follow: bool, lines: int | None) -> int:
    """Print the logs of a stage's newest attempt; the exit code."""
    attempt = _newest_attempt(output, stage)
    files = (
        [] if attempt is None else sorted(attempt.glob("*/*/*/combined.log"), key=lambda path: int(path.parent.name))
    )
    if not files:
        of = f" of the stage {stage}" if stage else ""
        raise UserError(f"no logs{of} in {output / 'logs'}: diht status {output} says what has run")
    if follow:
        for line in _followed(files[0], output, lines):
            print(line, end="", flush=True)
        return ExitCode.DONE
    for file in files:
        prefix = f"[{file.parent.name}] " if len(files) > 1 else ""
        with file.open(errors="replace") as opened:
            for line in deque(opened, lines):
                print(f"{prefix}{line}", end="")
    return ExitCode.DONE


def _followed(file: Path, output: Path, lines: int | None) -> Iterator[str]:
    with file.open(errors="replace") as opened:
        yield from deque(opened, lines)
        while True:
            running = _is_locked(output)  # before the last read
            yield from opened
            if not running:
                return
            time.sleep(POLL_S)
