"""`diht estimate`: memory and duration of a training on a GPU, as tables or JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from rich.console import Console
from rich.table import Table

from diht_k8s.api.documents import load, read_text
from diht_k8s.api.errors import ExitCode, UserError
from diht_k8s.api.run import DihtRun
from diht_k8s.stages.train.data.share import BatchShare
from diht_k8s.stages.train.estimate.advice import advice, does_not_fit, fewest_do_not_fit
from diht_k8s.stages.train.estimate.estimate import Estimate, estimate, on_fewest_nodes
from diht_k8s.stages.train.estimate.gpus import gpu_of

GIB: Final = 2**30


def estimate_command(
    path: str, overrides: Sequence[str], gpu: str, *, nodes: int | None, utilisation: float, as_json: bool
) -> int:
    """Print the estimate; 64 if the training does not fit."""
    run = load(read_text(path), name=path, overrides=overrides)
    made = estimate(run, gpu, nodes=nodes, utilisation=utilisation)
    fewest = on_fewest_nodes(run, made) if nodes is None else None
    if fewest is not None:
        made = replace(made, notes=[*made.notes, _on_fewest(fewest)])
    if as_json:
        print(json.dumps(made.document()))
    else:
        show(made, Console())
    if not made.fits:
        raise UserError(does_not_fit(made))
    if fewest is not None and not fewest.fits:
        raise UserError("; ".join(fewest_do_not_fit(fewest, None)))
    return ExitCode.DONE


def _on_fewest(made: Estimate) -> str:
    return (
        f"shrunk to {made.nodes} (train.minNodes), a rank needs {made.used / GIB:.1f} of {made.gpu_memory / GIB:.1f} GiB "
        f"and a pod {sum(made.host_memory.values()) / GIB:.1f} GiB of host memory"
    )


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
    host = {name: size for name, size in made.host_memory.items() if size}
    console.print(_sizes("host memory of a pod (GiB)", host, {"total": sum(host.values())}))
    console.print(_pace(made))
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


def _pace(made: Estimate) -> Table:
    table = Table("figure", "value", title="time", title_justify="left")
    table.columns[1].justify = "right"
    for name, flops in made.work.parts.items():
        table.add_row(f"GFLOP a sample: {name}", f"{flops / 1e9:,.2f}")
    table.add_row("GFLOP a sample: computed again", f"{sum(made.work.recomputed.values()) / 1e9:,.2f}")
    table.add_row("share of the peak in the layers, as given", f"{made.utilisation:.0%}")
    table.add_row("ms a step in the losses", f"{1e3 * made.pace.loss_seconds:,.3g}")
    table.add_row("losses, share of a step", f"{made.pace.loss_seconds / made.pace.step_seconds:.1%}")
    table.add_row("MFU (recomputation left out)", f"{made.pace.model_mfu:.0%}")
    table.add_row("samples/s", f"{made.pace.samples_per_second:,.0f}")
    table.add_row("seconds a step", f"{made.pace.step_seconds:,.3g}")
    table.add_row("days", f"{made.pace.days:,.2f}")
    table.add_row("GPU hours", f"{made.pace.gpu_hours:,.0f}")
    largest = made.largest_micro_batch
    table.add_row("largest micro-batch", "none fits" if largest is None else f"{largest:,}")
    return table


def line(run: DihtRun, gpu: str) -> str:
    """The estimate in one line, for `diht plan`."""
    gpu_of(gpu)
    if run.spec.train is None:
        return "estimate: no train stage"
    made = estimate(run, gpu)
    fits = "fits" if made.fits else does_not_fit(made)
    return (
        f"estimate on {made.nodes * made.processes_per_node} x {gpu}: {made.used / GIB:.1f} of {made.gpu_memory / GIB:.1f} GiB a rank "
        f"({fits}), largest micro-batch {made.largest_micro_batch}, {made.pace.samples_per_second:,.0f} samples/s at "
        f"{made.utilisation:.0%} of the peak, {made.pace.days:.2f} days, {made.pace.gpu_hours:,.0f} GPU hours"
    )


def training_warnings(run: DihtRun, gpu: str | None) -> list[str]:
    """The warnings of `advice`, for `diht validate` and `diht submit`, which they must not stop.

    Raises:
        UserError: the card that was asked for is not known.
    """
    if gpu is not None:
        gpu_of(gpu)
    try:
        return advice(run, gpu)
    except UserError as error:
        return [f"the training cannot be estimated: {error}"]
