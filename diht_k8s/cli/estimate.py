"""`diht estimate`: memory, operations and time of a training on a GPU, as tables or JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

from rich.console import Console
from rich.table import Table

from diht_k8s.api.errors import ExitCode, UserError
from diht_k8s.api.run import DihtRun
from diht_k8s.cli.document import read_run
from diht_k8s.stages.train.data.batch import BatchShare
from diht_k8s.stages.train.estimate.estimate import Estimate, does_not_fit, estimate, warnings_of
from diht_k8s.stages.train.estimate.gpus import gpu_of

GIB: Final = 2**30


def estimate_command(
    path: str, overrides: Sequence[str], gpu: str, *, nodes: int | None, mfu: float | None, as_json: bool
) -> int:
    """Print the estimate; 64 if the training does not fit."""
    made = estimate(read_run(path, overrides), gpu, nodes=nodes, mfu=mfu)
    if as_json:
        print(json.dumps(made.document()))
    else:
        show(made, Console())
    if not made.fits:
        raise UserError(does_not_fit(made))
    return ExitCode.DONE


def show(made: Estimate, console: Console) -> None:
    """Print the tables."""
    world = made.nodes * made.processes_per_node
    console.print(
        f"{made.parameters / 1e6:,.1f} M parameters, {world} x {made.gpu}, batch {made.batch_size:,}, "
        f"{BatchShare(made.batch_size, 0, world).rows:,} rows a rank, micro-batch {made.micro_batch:,}",
        highlight=False,
    )
    title = f"memory of a rank (GiB), peak in the {made.memory.phase}"
    card = {"total": made.used, f"{made.gpu} has": made.gpu_memory}
    console.print(_sizes(title, {**made.memory.device, **made.overhead}, card))
    console.print(_work(made))
    for note in made.notes:
        console.print(f"- {note}", highlight=False, markup=False)


def _sizes(title: str, parts: Mapping[str, int], totals: Mapping[str, int]) -> Table:
    table = Table("part", "GiB", title=title, title_justify="left")
    table.columns[1].justify = "right"
    for name, size in parts.items():
        table.add_row(name, f"{size / GIB:.2f}")
    table.add_section()
    for name, size in totals.items():
        table.add_row(name, f"{size / GIB:.2f}")
    return table


def _work(made: Estimate) -> Table:
    table = Table("figure", "value", title="work", title_justify="left")
    table.columns[1].justify = "right"
    largest = made.largest_micro_batch
    table.add_row("largest micro-batch", "none fits" if largest is None else f"{largest:,}")
    for name, flops in made.work.parts.items():
        table.add_row(f"GFLOP a sample: {name}", f"{flops / 1e9:,.2f}")
    table.add_row("GFLOP a sample: computed again", f"{sum(made.work.recomputed.values()) / 1e9:,.2f}")
    if made.mfu is not None and made.step_seconds is not None and made.days is not None:
        table.add_row("share of the peak, as given", f"{made.mfu:.0%}")
        table.add_row("seconds a step", f"{made.step_seconds:,.3g}")
        table.add_row("samples/s", f"{made.batch_size / made.step_seconds:,.0f}")
        table.add_row("days", f"{made.days:,.2f}")
    return table


def training_warnings(run: DihtRun, gpu: str | None) -> list[str]:
    """What a training lacks on a card, for `diht validate` and `diht submit`, which it must not stop.

    Raises:
        UserError: the card that was asked for is not known.
    """
    if gpu is not None:
        gpu_of(gpu)
    try:
        return warnings_of(run, gpu)
    except UserError as error:
        return [f"the training cannot be estimated: {error}"]
