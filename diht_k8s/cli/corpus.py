"""`diht index`, `uids`, `purge` and `explain`: the pairs of a run counted, listed, taken out and followed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from diht_k8s.api.errors import ExitCode, UserError
from diht_k8s.api.wording import first_of
from diht_k8s.cli.display import show
from diht_k8s.cli.document import read_run
from diht_k8s.cli.stage import place_of
from diht_k8s.data.shards.storage import Storage
from diht_k8s.outputs.pair_history import MOST, PairHistory, histories, write_pair_table
from diht_k8s.outputs.takedown import PurgeResult, purge
from diht_k8s.runtime.indexing import make_index
from diht_k8s.runtime.run_folder import run_layout
from diht_k8s.runtime.signals import StopFlag
from diht_k8s.stages.filter.uid_lists import write_kept_uids

SHOWN_UNMATCHED: Final = 10
SHOWN_REMOVED: Final = 20


def index_command(
    path: str, overrides: Sequence[str], worker: int | None, workers: int | None, *, as_json: bool = False
) -> int:
    """Index the shards of a run with the other workers and say what was done; the exit code."""
    stop = StopFlag().install()
    run, (index, number) = read_run(path, overrides), place_of(worker, workers)
    done = make_index(run, Storage(run.spec.storage), worker=index, workers=number, stop=stop)
    damaged = f", {done.damaged} of them damaged" if done.damaged else ""
    said = f"indexed shards: {done.shards}{damaged}, with {done.samples} samples; read here: {done.read}"
    return show(asdict(done), [said], as_json=as_json)


def uids_command(path: str, output: str, overrides: Sequence[str], *, as_json: bool = False) -> int:
    """Write the uids of a run's kept pairs as DataComp's list; the exit code."""
    run = read_run(path, overrides)
    count = write_kept_uids(run, Storage(run.spec.storage), output)
    return show({"uids": count, "file": output}, [f"{output}: {count} uids"], as_json=as_json)


def purge_command(path: str, exclude: str, overrides: Sequence[str], *, as_json: bool = False) -> int:
    """Take the listed pairs out of a run's output and say what was done; the exit code."""
    stop = StopFlag().install()
    run = read_run(path, overrides)
    done = purge(run, Storage(run.spec.storage), exclude, stop)
    listed = run.spec.filter is not None and run.spec.filter.output == "KeepList"
    return show(asdict(done), describe_purge(done, path, listed=listed), as_json=as_json)


def describe_purge(done: PurgeResult, path: str, *, listed: bool = False) -> list[str]:
    """A finished purge in lines for a person.

    Args:
        done: its counts.
        path: the run document.
        listed: whether kept pairs are listed and not copied.
    """
    gone = (
        "removed with all that they held, since no run needs them and no document says how to search them: "
        f"{', '.join(done.folders)}"
    )
    if not done.shards:
        return [
            "nothing to remove: no pair of the list is in the output; later filters here keep them out",
            *([gone] if done.folders else []),
            *_unmatched(done),
        ]
    kept = "keep lists" if listed else "kept shards"
    what = f"{kept} and labels" if done.labels else kept
    lines = [f"removed {done.pairs} pairs from {what}; {done.shards} shards were rewritten"]
    if listed and done.pairs:
        lines.append(
            "the raw shards still hold them, and this run reads the raw shards: remove them there last, then run "
            "the filter again"
        )
    if done.dropped:
        lines.append(
            f"{done.dropped} pairs that the filter had dropped lost their names, words and spotted texts in the scores"
        )
    lines += [gone] if done.folders else []
    if done.removed:
        lines.append(
            f"freed of their names, or removed because it showed them: {first_of(done.removed, SHOWN_REMOVED)} "
            f"(diht run {path} makes evaluations and pages again)"
        )
    if done.trained:
        lines.append(
            f"a model was trained on them: diht run {path} trains and evaluates another one; the exported "
            "model and its checkpoints stay until you remove them"
        )
    lines.append(
        "not looked into: raw and benchmark shards, pages outside of the stages' and runs' folders (diht report "
        "--output, "
        "diht sweep), copies of the output, uploads to trackers"
    )
    return [*lines, *_unmatched(done)]


def _unmatched(done: PurgeResult) -> list[str]:
    """Entries of the list that name no pair."""
    if not done.unmatched:
        return []
    names = first_of(done.unmatched, SHOWN_UNMATCHED)
    return [f"{len(done.unmatched)} entries match nothing (a digest finds kept pairs only): {names}"]


def explain_command(path: str, name: str | None, overrides: Sequence[str], *, as_json: bool = False) -> int:
    """Print the pairs with a name, each with a line a stage, or all pairs as CSV; the exit code.

    Raises:
        UserError: JSON is asked for all pairs, or as of `histories` and `write_pair_table`.
    """
    stop = StopFlag().install()
    run = read_run(path, overrides)
    storage = Storage(run.spec.storage)
    if name is None:
        if as_json:
            raise UserError("--json needs a NAME; without one all pairs are printed as CSV")
        write_pair_table(storage, run_layout(run, storage), sys.stdout, stop)
        return ExitCode.DONE
    found = histories(run, storage, name, stop)
    lines = ["\n\n".join(map(describe_pair, found))]
    if len(found) == MOST:
        lines.append(f"\nonly the first {MOST} pairs of this name are shown: give a uid")
    return show([asdict(each) for each in found], lines, as_json=as_json)


def describe_pair(found: PairHistory) -> str:
    """A pair in lines for a person."""
    source = "" if found.source is None else f", from {found.source}"
    lines = [f"{found.uid}: sample {found.row} of {found.shard}, key {found.key}{source}"]
    if found.caption is not None:
        lines.append(f"  caption  {found.caption!r}")
    return "\n".join([*lines, *(f"  {stage:<8} {sentence}" for stage, sentence in found.stages.items())])
