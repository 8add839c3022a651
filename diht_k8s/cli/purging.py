"""`diht purge FILE --exclude LIST`: take pairs out of a run's output, and say what was done and what is left to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from diht_k8s.cli.reading import read_run
from diht_k8s.recipe.runtime.signals import StopFlag
from diht_k8s.recipe.runtime.stage import exit_code_of

if TYPE_CHECKING:
    from diht_k8s.recipe.takedown import Purged


def purge_command(path: str, exclude: str, overrides: Sequence[str]) -> int:
    """Purge; the exit code."""
    stop = StopFlag().install()

    def work() -> None:
        from diht_k8s.recipe.shards.storage import Storage
        from diht_k8s.recipe.takedown import purge

        run = read_run(path, overrides, {})
        done = purge(run, Storage(run.spec.storage), exclude, stop)
        filters_out = run.spec.filter is not None and run.spec.filter.exclude is not None
        listed = run.spec.filter is not None and run.spec.filter.output == "KeepList"
        print(*describe(done, path, exclude, filters_out=filters_out, listed=listed), sep="\n")

    return exit_code_of(work)


def describe(done: Purged, path: str, exclude: str, *, filters_out: bool, listed: bool = False) -> list[str]:
    """What a purge did, for people.

    Args:
        done: what it did.
        path: the run document.
        exclude: the list.
        filters_out: whether the document names an exclude list.
        listed: whether kept pairs are listed and not copied.
    """
    if not done.shards:
        return ["nothing to remove: no pair of the list is in the run's output"]
    kept = "keep lists" if listed else "kept shards"
    what = f"{kept} and labels" if done.labels else kept
    lines = [f"removed {done.pairs} pairs from {what}; {done.shards} shards were written anew"]
    if listed and done.pairs:
        lines.append(
            "the raw shards still hold them, and are read by this run: take them out there last, then run the filter again"
        )
    if done.dropped:
        lines.append(
            f"{done.dropped} pairs that the filter had dropped lost their words and spotted texts in the scores"
        )
    if not filters_out:
        lines.append(f"to keep them out where the filter is run again: add exclude: {exclude} to spec.filter")
    if done.trained:
        lines.append(
            f"a model was trained on them: diht run {path} --replace trains and evaluates again; exported models, "
            "checkpoints and the evaluation's report with its thumbnails stay until then"
        )
    return lines
