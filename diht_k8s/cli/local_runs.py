"""`diht status`, `list` and `logs` of runs on this machine, from their folders (`OUTPUT/runs/NAME/DIGEST`) and the
locks there.
"""

from __future__ import annotations

import contextlib
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

from diht_k8s.api.base import in_object_store
from diht_k8s.api.documents import load
from diht_k8s.api.errors import DihtError, ExitCode, UserError
from diht_k8s.api.hashing import run_sha256
from diht_k8s.api.layout import MARKER, STARTED, Layout, join, refuse_old_layout
from diht_k8s.api.reports import MAX_LINE_BYTES, Cause, Committed, parse_progress
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.cli.arguments import RUNS
from diht_k8s.cli.display import amount, readable, run_sentence, show, speed
from diht_k8s.cli.document import output_of, read_run

FOLDER: Final = "runs"
"""In an output."""
LOGS: Final = "logs"
LOCK: Final = "lock"
"""In the folder of logs: held by the `diht run` that writes there."""
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
    folder: str
    """of the run, below the output."""
    state: str
    """complete, running, failed, stopped or waiting."""
    stages: list[LocalStage]
    says: str = ""
    """why it failed, or how far its stage is."""
    changed: str = ""
    """when a log or marker was last written."""
    sweep: str | None = None
    """the run of which it is a variant."""


def local_run_folder(run: DihtRun) -> Path:
    """The folder of a run whose output is on this machine."""
    output = Path(run.spec.data.output.removeprefix("file://")).expanduser().absolute()
    return Path(Layout(str(output)).run(run.metadata.name, run_sha256(run.spec)))


def local_layout(folder: Path) -> Layout:
    """The output with the stage folders that a run's folder points to."""
    layout = Layout(str(folder.parents[2]))
    for stage in Stage:
        if (found := _pointer(folder / f"{stage.value}.json")) is not None:
            layout = layout.with_folder(stage, join(layout.output, found))
    return layout


def _pointer(path: Path) -> str | None:
    try:
        return str(json.loads(path.read_text())["folder"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def local_run(path: str) -> Path | None:
    """The folder of a run on this machine; None where there is none.

    Args:
        path: the folder itself, an output folder (the run that began a stage there last), a run document, or the name
            of a run below `runs`, as `diht list` prints it (the newest of that name).

    Raises:
        UserError: the document is wrong, or its output is not on this machine or has an old layout.
    """
    folder = Path(path.removeprefix("file://")).expanduser()
    if folder.is_dir():
        if folder.resolve().parent.parent.name == FOLDER and (folder / "run.json").is_file():
            return folder.resolve()
        refuse_old_layout(path, _names)
        latest = _pointer(folder / FOLDER / "latest.json") or _worked_on(folder.absolute())
        return None if latest is None else folder.absolute() / FOLDER / latest
    if not folder.is_file():
        named = [each for each in _run_folders(Path(RUNS)) if each.parent.name == path]
        return max(named, key=lambda each: status_of(each).changed, default=None)
    if output_of(path) is None:
        return None
    run = read_run(path)
    if in_object_store(run.spec.data.output):
        raise UserError(
            f"{path}: the output {run.spec.data.output} is not on this machine: name the run to ask the cluster"
        )
    refuse_old_layout(run.spec.data.output, _names)
    return local_run_folder(run)


def _names(folder: str) -> set[str]:
    path = Path(folder.removeprefix("file://")).expanduser()
    return {entry.name for entry in path.iterdir()} if path.is_dir() else set()


def status_of(folder: Path) -> LocalRun:
    """The state of a run, given its folder.

    Raises:
        UserError: no run has begun there.
    """
    document = folder / "run.json"
    if not document.is_file():
        raise UserError(f"no run has begun in {folder}: start it by diht run")
    run = load(document.read_text(), name=str(document))
    layout = local_layout(folder)
    stages = [_stage(layout, stage) for stage in run.spec.stages]
    says, state = "", "stopped"
    if all(stage.state == "complete" for stage in stages):
        state = "complete"
    elif _is_running(folder):
        state, says = "running", _progress(folder)
    elif (cause := _cause(folder)) is not None and cause.exit_code != ExitCode.STOPPED:
        state, says = "failed", cause.message
    elif all(stage.state == "waiting" for stage in stages):
        state = "waiting"
    return LocalRun(
        run.metadata.name,
        layout.output,
        str(folder),
        state,
        stages,
        says,
        _changed(folder, layout),
        run.metadata.labels.sweep,
    )


def _stage(layout: Layout, stage: Stage) -> LocalStage:
    if stage not in layout.folders:
        return LocalStage(stage.value, "waiting")
    marker = Path(layout.committed(stage))
    try:
        committed = Committed.model_validate_json(marker.read_text())
    except OSError:
        return LocalStage(stage.value, "begun")
    except ValidationError:
        return LocalStage(stage.value, "begun", f"{marker} is damaged")
    return LocalStage(stage.value, "complete", _figures(committed.summary))


def _figures(summary: dict[str, Any]) -> str:
    counts = summary.get("counts")
    if isinstance(counts, dict):
        return f"{counts['kept']:,} of {counts['input']:,} pairs kept"
    return ", ".join(f"{summary[name]:,} {name}" for name in ("samples", "steps") if isinstance(summary.get(name), int))


def _is_running(folder: Path) -> bool:
    """Whether a `diht run` works on the run."""
    return any(_is_locked(path) for path in folder.glob(f"{LOGS}*/{LOCK}"))


def _is_locked(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _worked_on(output: Path) -> str | None:
    """A run on which a `diht run` works in an output, although no stage has begun."""
    runs = output / FOLDER
    return next((str(path.relative_to(runs)) for path in sorted(runs.glob("*/*")) if _is_running(path)), None)


def _progress(folder: Path) -> str:
    attempt = _newest_attempt(folder, None)
    logs = [] if attempt is None else sorted(attempt.glob("*/*/*/stdout.log"))
    for log in logs:
        with log.open(errors="replace") as file:
            for line in reversed(deque(file, 200)):
                if (found := parse_progress(line)) is not None:
                    return f"{found.stage}: {found.step}: {amount(found)} {speed(found)}".rstrip()
    return ""


def _cause(folder: Path) -> Cause | None:
    attempt = _newest_attempt(folder, None)
    found = [] if attempt is None else sorted(attempt.glob("cause-*.json"), key=lambda path: path.stat().st_mtime_ns)
    for path in found:
        with contextlib.suppress(OSError, ValidationError):
            if (cause := Cause.model_validate_json(path.read_text())).exit_code != ExitCode.DONE:
                return cause
    return None


def _newest_attempt(folder: Path, stage: str | None) -> Path | None:
    """The folder of the newest attempt at a stage or step; at any without one."""
    steps = {"label": ("vocabulary", "heads", "predict", "label")}.get(stage or "", (stage,))
    steps = tuple(step.removeprefix("label-") for step in steps if step)
    found = [path for path in folder.glob(f"{LOGS}*/*") if path.is_dir()]
    found = [
        path for path in found if not steps or path.name.rpartition("-")[0].endswith(tuple(f"-{s}" for s in steps))
    ]
    return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)


def _changed(folder: Path, layout: Layout) -> str:
    markers = [Path(layout.committed(stage)) for stage in layout.folders]
    paths = [folder / "run.json", *markers, *folder.glob(f"{LOGS}*/*")]
    newest = max(path.stat().st_mtime for path in paths if path.exists())
    return datetime.fromtimestamp(newest, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def status_command(name: str, namespace: str | None, *, as_json: bool) -> int:
    """Print the state of a run of this machine, else of the cluster; the exit code."""
    if namespace is not None or (folder := local_run(name)) is None:
        from diht_k8s.cli import cluster

        with _not_here(name, namespace):
            return cluster.status(name, namespace, as_json=as_json)
    found = status_of(folder)
    reason = found.state if found.state in ("stopped", "waiting") else ""
    lines = [
        run_sentence(found.name, found.state, reason=reason, says=found.says, since=found.changed),
        *(f"  {each.stage:<9} {each.state}{f': {each.says}' if each.says else ''}" for each in found.stages),
        f"  folder    {found.folder}, last changed {found.changed}",
    ]
    return show(asdict(found), lines, as_json=as_json)


@contextlib.contextmanager
def _not_here(name: str, namespace: str | None) -> Iterator[None]:
    """Say that this machine has no such run either, where the cluster was asked because of that."""
    try:
        yield
    except UserError as error:
        here = "" if namespace else f"no run {name} below {RUNS} (diht list), and "
        raise UserError(f"{here}{error}") from error


def list_command(folder: str, namespace: str | None, sweep: str | None, *, as_json: bool) -> int:
    """Print the runs below a folder or of a namespace, or the variants of a sweep there; the exit code."""
    if namespace is not None:
        from diht_k8s.cli import cluster

        return cluster.list_runs(namespace, sweep, as_json=as_json)
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise UserError(
            f"{folder} is no folder: name the one in which runs write their output, or --namespace for a cluster's"
        )
    found: list[LocalRun] = []
    for path in _run_folders(root):
        try:
            found.append(status_of(path))
        except DihtError as error:
            print(f"diht: {path}: {error}", file=sys.stderr)
    found = [each for each in found if sweep in (None, each.sweep)]
    for output in _old_outputs(root):
        try:
            refuse_old_layout(str(output), _names)
        except UserError as error:
            print(f"diht: {error}", file=sys.stderr)
    width = max((len(each.name) for each in found), default=0)
    lines = [
        f"{each.name:<{width}}  {each.state:<8}  {each.changed}  {each.folder}"
        for each in sorted(found, key=lambda each: each.changed, reverse=True)
    ]
    none = f"no runs{'' if sweep is None else f' of the sweep {sweep}'} below {folder}"
    return show([asdict(each) for each in found], lines or [none], as_json=as_json)


def _run_folders(root: Path) -> list[Path]:
    return sorted(path.parent for path in _below(root, FOLDER, "*", "*", "run.json"))


def _old_outputs(root: Path) -> list[Path]:
    """Outputs that may have the layout of an earlier version; a run's folder has links to its stages."""
    folders = {path.parent for stage in Stage for name in (STARTED, MARKER) for path in _below(root, stage.value, name)}
    return sorted({folder.parent for folder in folders if not folder.is_symlink()})


def _below(root: Path, *parts: str) -> set[Path]:
    """What matches in a folder and in those below it, as deep as outputs are looked for."""
    return {path for depth in range(DEPTH + 1) for path in root.glob("/".join(["*"] * depth + list(parts)))}


def logs_command(name: str, stage: str | None, namespace: str | None, *, follow: bool, lines: int | None) -> int:
    """Print the logs of a stage's newest attempt, here or on the cluster; the exit code."""
    if namespace is not None or (folder := local_run(name)) is None:
        from diht_k8s.cli import cluster

        with _not_here(name, namespace):
            return cluster.logs(name, stage, namespace, follow=follow, lines=lines)
    attempt = _newest_attempt(folder, stage)
    files = (
        [] if attempt is None else sorted(attempt.glob("*/*/*/combined.log"), key=lambda path: int(path.parent.name))
    )
    if not files:
        of = f" of the stage {stage}" if stage else ""
        raise UserError(f"no logs{of} in {folder / LOGS}: diht status {folder} says what has run")
    if follow:
        for line in _followed(files[0], folder, lines):
            print(readable(line), end="", flush=True)
        return ExitCode.DONE
    for file in files:
        prefix = f"[{file.parent.name}] " if len(files) > 1 else ""
        with file.open(errors="replace") as opened:
            for line in deque(opened, lines):
                print(f"{prefix}{readable(line)}", end="")
    return ExitCode.DONE


def _followed(file: Path, folder: Path, lines: int | None) -> Iterator[str]:
    with file.open(errors="replace") as opened:
        yield from deque(opened, lines)
        begun = ""
        while True:
            running = _is_running(folder)  # before the last read
            for line in opened:
                begun += line
                if line.endswith("\n") or len(begun) > MAX_LINE_BYTES:
                    yield begun
                    begun = ""
            if not running:
                yield begun
                return
            time.sleep(POLL_S)
