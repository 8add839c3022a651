"""`diht sweep`: the variants of a run, one after another here, or one DihtRun each on a cluster; then one
comparison.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from diht_k8s.api.documents import dump, load, read_text
from diht_k8s.api.errors import DihtError, ExitCode, UserError
from diht_k8s.api.run import SWEEP_LABEL, DihtRun, Stage
from diht_k8s.cli.checks import check_for_cluster
from diht_k8s.cli.placement import place, this_machine
from diht_k8s.cli.run import has_batch_statistics, require_recipe, run_here, show_placement, stop_signals
from diht_k8s.cli.variants import Axis, Variant, axis_of, seeds_axis, settings, variants_of
from diht_k8s.kube.runs import RunClient, run_client

SHOWN: Final = 32
"""Characters of a value in the table."""
OPEN: Final = "computed"
"""A stage of which nobody knows whether the output has it already."""


def sweep_command(
    path: str,
    vary: Sequence[str],
    seeds: int | None,
    overrides: Sequence[str],
    *,
    output: str,
    dry_run: bool,
    submit: bool = False,
    namespace: str | None = None,
) -> int:
    """Run all variants here, and compare them; the exit code, that of the first variant that failed.

    Args:
        path: of the run document.
        vary: `PATH=V1,V2` each.
        seeds: how many seeds of each combination.
        overrides: of all variants.
        output: where the page of the comparison goes.
        dry_run: only print the variants.
        submit: send them to the cluster instead.
        namespace: there.
    """
    if submit:
        return submit_command(path, vary, seeds, overrides, namespace, dry_run=dry_run)
    axes, variants = _variants(path, vary, seeds, overrides)
    require_recipe()
    machine = this_machine()
    placed = [place(variant.run, machine, None, has_batch_statistics=has_batch_statistics) for variant in variants]
    runs = [run for run, _ in placed]
    found, problems = _found(runs)
    print("\n".join(table(axes, variants, found)), flush=True)
    if problems:
        raise UserError("\n".join(problems))
    if dry_run:
        return ExitCode.DONE
    show_placement(dict.fromkeys(line for _, changed in placed for line in changed))
    signals = stop_signals()
    failed: dict[str, int] = {}
    for number, (variant, run) in enumerate(zip(variants, runs, strict=True), start=1):
        print(f"\n{run.metadata.name} ({number} of {len(runs)}): {settings(axes, variant)}", flush=True)
        try:
            code = run_here(run, machine, signals, path=path)
        except DihtError as error:
            print(f"diht: {error}", file=sys.stderr)
            code = error.exit_code
        if signals.requests:
            return ExitCode.STOPPED
        if code != ExitCode.DONE:
            failed[run.metadata.name] = code
    for name, code in failed.items():
        print(f"diht: {name} failed with exit code {code}: see above; the same command tries it again", file=sys.stderr)
    done = [run for run in runs if run.metadata.name not in failed]
    if done and Stage.EVALUATE in done[0].spec.stages:
        _compare(done, output)
    return next(iter(failed.values()), ExitCode.DONE)


def _variants(
    path: str, vary: Sequence[str], seeds: int | None, overrides: Sequence[str]
) -> tuple[list[Axis], list[Variant]]:
    text = read_text(path)
    axes = [axis_of(argument) for argument in vary]
    if seeds is not None:
        axes.append(seeds_axis(load(text, name=path, overrides=overrides), seeds))
    if not axes:
        raise UserError("nothing varies: give --vary PATH=V1,V2, or --seeds N")
    return axes, variants_of(text, name=path, overrides=overrides, axes=axes)


def _found(runs: Sequence[DihtRun]) -> tuple[dict[str, str], list[str]]:
    """What lies already in the stages' folders, and what the others will fail by, as a program of its own finds it."""
    command = [sys.executable, "-P", "-m", "diht_k8s.cli.stage_folders", "--sweep"]
    done = subprocess.run(  # noqa: S603 (an argument list of ours, no shell)
        command, input=json.dumps([dump(run) for run in runs]), stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        return {}, []
    found = json.loads(done.stdout.splitlines()[-1])
    return found["stages"], found["problems"]


def _compare(runs: Sequence[DihtRun], output: str) -> None:
    """Print the comparison of these runs, the first being what the others are compared with, and write its page."""
    from diht_k8s.cli.results import report_command
    from diht_k8s.runtime.run_folder import run_folder

    print(flush=True)
    report_command([run_folder(run) for run in runs], output)


def table(axes: Sequence[Axis], variants: Sequence[Variant], found: Mapping[str, str] | None) -> list[str]:
    """The variants with their values and stages, then for each stage how often it is computed.

    Args:
        axes: what varies.
        variants: in order.
        found: digest of a stage -> `cached` or `begun` (see `cli.stage_folders`); None where nobody has looked.
    """
    stages = list(variants[0].decided)
    lines = [["name", *(axis.path for axis in axes), *stages]]
    states: dict[Stage, dict[str, str]] = {stage: {} for stage in stages}
    for variant in variants:
        cells: list[str] = []
        for stage, digest in variant.decided.items():
            state = OPEN if found is None else found.get(digest, "new")
            cells.append("shared" if digest in states[stage] and state != "cached" else state)
            states[stage][digest] = state
        lines.append([variant.run.metadata.name, *map(_brief, variant.values), *cells])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    rows = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return [*rows, *(_sum_of(stage, list(states[stage].values()), len(variants)) for stage in stages)]


def _brief(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def _sum_of(stage: Stage, states: Sequence[str], variants: int) -> str:
    """`filter: 1 for 4 variants: 1 cached`."""
    counts = "" if OPEN in states else f": {', '.join(f'{n} {state}' for state, n in sorted(Counter(states).items()))}"
    return f"{stage}: {len(states)} for {variants} variants{counts}"


def submit_command(
    path: str,
    vary: Sequence[str],
    seeds: int | None,
    overrides: Sequence[str],
    namespace: str | None,
    *,
    dry_run: bool,
) -> int:
    """Send each variant to the cluster, or change it there; the exit code, that of the first that was refused."""
    axes, variants = _variants(path, vary, seeds, overrides)
    print("\n".join(table(axes, variants, None)), flush=True)
    _check(path, variants)
    kube = run_client(namespace or variants[0].run.metadata.namespace)
    before = {each["metadata"]["name"]: each["metadata"] for each in kube.all()}
    refused: list[int] = []
    for variant in variants:
        name = variant.run.metadata.name
        try:
            print(f"{_submit(kube, variant.run, before.get(name), dry_run=dry_run)} run {kube.namespace}/{name}")
        except DihtError as error:
            print(f"diht: {error}", file=sys.stderr)
            refused.append(error.exit_code)
    if not dry_run:
        sweep = variants[0].run.metadata.labels.sweep
        print(f"to follow them: diht list -n {kube.namespace} --sweep {sweep}")
    return refused[0] if refused else ExitCode.DONE


def _check(path: str, variants: Sequence[Variant]) -> None:
    """Check all variants before the first one is sent.

    Raises:
        UserError: the problems of all of them, a line each.
    """
    found: list[str] = []
    for variant in variants:
        try:
            check_for_cluster(f"{path} ({variant.run.metadata.name})", variant.run)
        except UserError as error:
            found += str(error).splitlines()
    if found:
        raise UserError("\n".join(dict.fromkeys(found)))


def _submit(kube: RunClient, run: DihtRun, before: Mapping[str, Any] | None, *, dry_run: bool) -> str:
    """Send a variant; what was done.

    Args:
        kube: the runs of its namespace.
        run: the variant.
        before: the metadata of the run that has its name there.
        dry_run: whether the cluster is only asked.

    Raises:
        UserError: the run of this name is no variant of the sweep.
        ClusterError: the cluster refuses it.
    """
    name, sweep = run.metadata.name, run.metadata.labels.sweep
    if before is not None and (before.get("labels") or {}).get(SWEEP_LABEL) != sweep:
        raise UserError(
            f"run {kube.namespace}/{name} exists and is no variant of {sweep}: delete it (diht cancel {name}), or give "
            "the document another metadata.name"
        )
    made = kube.apply(run, dry_run=dry_run)
    if dry_run:
        return "accepted"
    if before is None:
        return "submitted"
    return "unchanged" if made["metadata"]["generation"] == before["generation"] else "changed"
