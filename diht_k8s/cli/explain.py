"""`diht explain`: what became of a pair at each stage of a run, and why; without a name, a table of all pairs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from diht_k8s.api.errors import ExitCode, UserError
from diht_k8s.cli.document import read_run
from diht_k8s.data.shards.storage import Storage
from diht_k8s.outputs.pair_history import MOST, PairHistory, histories
from diht_k8s.outputs.pair_table import write_pair_table
from diht_k8s.runtime.run_folder import run_layout
from diht_k8s.runtime.signals import StopFlag


def explain_command(path: str, name: str | None, overrides: Sequence[str], *, as_json: bool = False) -> int:
    """Print the pairs with a name, each with a line a stage, or all pairs as CSV; the exit code.

    Raises:
        UserError: JSON is asked for all pairs, or as of `histories` and `write_pair_table`.
    """
    stop = StopFlag().install()
    run = read_run(path, overrides, {})
    storage = Storage(run.spec.storage)
    if name is None:
        if as_json:
            raise UserError("--json needs a NAME; without one all pairs are printed as CSV")
        write_pair_table(storage, run_layout(run, storage), sys.stdout, stop)
        return ExitCode.DONE
    found = histories(run, storage, name, stop)
    if as_json:
        print(json.dumps([asdict(each) for each in found], ensure_ascii=False))
        return ExitCode.DONE
    print("\n\n".join(map(describe_pair, found)))
    if len(found) == MOST:
        print(f"\nonly the first {MOST} pairs of this name are shown: give a uid")
    return ExitCode.DONE


def describe_pair(found: PairHistory) -> str:
    """A pair in lines for a person."""
    source = "" if found.source is None else f", from {found.source}"
    lines = [f"{found.uid}: sample {found.row} of {found.shard}, key {found.key}{source}"]
    if found.caption is not None:
        lines.append(f"  caption  {found.caption!r}")
    return "\n".join([*lines, *(f"  {stage:<8} {sentence}" for stage, sentence in found.stages.items())])
