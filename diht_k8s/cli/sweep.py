"""`diht sweep`: the variants of a run, one after another here, or one DihtRun each on a cluster; then one comparison.

The variants are the product of values of the document's fields, each a run with a name of its own. `--vary
PATH=V1,V2`: commas separate values, except inside brackets, braces and quotes; each value is read as `--set PATH=VALUE`
reads it, so `--vary data.sources.0.shards=[a.tar],[a.tar,b.tar]` has two.
"""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from diht_k8s.api.documents import canonical_json, load, override_value, read_text
from diht_k8s.api.errors import DihtError, ExitCode, UserError
from diht_k8s.api.hashing import decided_by, field_without_result, sha256_of
from diht_k8s.api.redaction import redacted_override
from diht_k8s.api.run import MAX_NAME_LENGTH, SWEEP_LABEL, DihtRun, RunLabels, Stage
from diht_k8s.api.wording import columns
from diht_k8s.cli.checks import check_for_cluster
from diht_k8s.cli.local_runner import ComparisonError, look_into_folders
from diht_k8s.cli.placement import place, this_machine
from diht_k8s.cli.run import require_recipe, run_here, show_placement, stop_signals
from diht_k8s.kube.runs import RunClient, run_client

MAX_VARIANTS: Final = 256
"""More is a mistake more often than a wish (our choice)."""
DIGITS: Final = 8
"""Of the digest in a name that would be too long, or another variant's."""
_PAIRS: Final = {"[": "]", "{": "}"}


@dataclass(frozen=True)
class Axis:
    """A field, and the values that it takes."""

    path: str
    """below `spec`."""
    values: tuple[Any, ...]
    """as read, each once."""


@dataclass(frozen=True)
class Variant:
    """One run of a sweep."""

    run: DihtRun
    """with its own name, and the label that names the sweep."""
    values: tuple[str, ...]
    """of each axis, as canonical JSON."""
    decided: dict[Stage, str]
    """stage -> digest that it shares with each variant that computes the same (`api.hashing.decided_by`)."""


def axis_of(argument: str) -> Axis:
    """Read `PATH=V1,V2`.

    Raises:
        UserError: it is written otherwise, names a field that changes no result, or has a value twice.
    """
    path, separator, text = argument.partition("=")
    path = path.removeprefix("spec.")
    if not separator or not path:
        raise _wrong(argument, "write PATH=V1,V2, for example train.loss.beta=0.25,0.5")
    if (field := field_without_result(path.split("."))) is not None:
        raise UserError(
            f"--vary {path}: {field} changes no result (where and how fast a run works), so all variants would "
            f"compute the "
            "same: set it for all of them by --set"
        )
    texts = list(_split(argument, text))
    if not all(texts):
        raise _wrong(argument, "a value is empty: write null for none")
    return _axis(argument, path, [override_value(f"{path}={each}") for each in texts])


def seeds_axis(run: DihtRun, count: int) -> Axis:
    """The seeds from the run's own on: of the training, or of the run where it has none.

    Raises:
        UserError: the count is not positive.
    """
    if count < 1:
        raise UserError(f"--seeds {count}: give the number of seeds, 1 or more")
    first = run.spec.training_seed
    return Axis("seed" if run.spec.train is None else "train.seed", tuple(range(first, first + count)))


def _axis(argument: str, path: str, values: Sequence[Any]) -> Axis:
    counts = Counter(canonical_json(value) for value in values)
    if twice := [text for text, count in counts.items() if count > 1]:
        raise _wrong(argument, f"the value {twice[0]} stands there twice: remove one")
    return Axis(path, tuple(values))


def _split(argument: str, text: str) -> Iterator[str]:
    """The values, cut at the commas outside of brackets, braces and quotes."""
    closing: list[str] = []
    value, quote, escaped = "", "", False
    for character in text:
        if quote:
            quote = "" if character == quote and not escaped else quote
            escaped = character == "\\" and quote == '"' and not escaped
        elif character in "\"'":
            quote = character
        elif character in _PAIRS:
            closing.append(_PAIRS[character])
        elif closing and character == closing[-1]:
            closing.pop()
        elif character == "," and not closing:
            yield value
            value = ""
            continue
        value += character
    if quote or closing:
        raise _wrong(argument, f"a closing {quote or closing[-1]} is missing: add it, or quote the text")
    yield value


def _wrong(argument: str, message: str) -> UserError:
    return UserError(f"--vary {redacted_override(argument)}: {message}")


def variants_of(text: str, *, name: str, overrides: Sequence[str], axes: Sequence[Axis]) -> list[Variant]:
    """All combinations, the last axis changing fastest.

    Args:
        text: of the run document.
        name: what stands for the file in errors.
        overrides: `PATH=VALUE` of all variants.
        axes: what varies.

    Raises:
        UserError: a field is given twice, a combination is no valid run, or two compute the same.
    """
    if twice := [path for path, count in Counter(axis.path for axis in axes).items() if count > 1]:
        raise UserError(f"--vary {twice[0]} is given twice: put its values into one")
    count = 1
    for axis in axes:
        count *= len(axis.values)
    if count > MAX_VARIANTS:
        raise UserError(
            f"{count:,} variants: at most {MAX_VARIANTS} are one sweep: vary fewer fields, or in two sweeps"
        )
    found: list[Variant] = []
    for chosen in itertools.product(*(axis.values for axis in axes)):
        values = tuple(canonical_json(value) for value in chosen)
        sets = [f"{axis.path}={_quoted(value)}" for axis, value in zip(axes, chosen, strict=True)]
        run = load(text, name=name, overrides=[*overrides, *sets])
        found.append(Variant(run, values, {stage: decided_by(run.spec, stage) for stage in run.spec.stages}))
    _refuse_equal(axes, found)
    return _named(axes, found)


def _quoted(value: Any) -> str:
    """A value as an override reads it again."""
    return json.dumps(value, ensure_ascii=False)


def _refuse_equal(axes: Sequence[Axis], variants: Sequence[Variant]) -> None:
    first: dict[str, Variant] = {}
    for variant in variants:
        other = first.setdefault(canonical_json(variant.decided), variant)
        if other is not variant:
            one, two = (settings(axes, each) for each in (other, variant))
            raise UserError(f"--vary: {one} computes the same as {two}: leave one of them out")


def settings(axes: Sequence[Axis], variant: Variant) -> str:
    """`train.loss.beta=0.5 train.seed=1`."""
    return " ".join(f"{axis.path}={value}" for axis, value in zip(axes, variant.values, strict=True))


def _named(axes: Sequence[Axis], variants: Sequence[Variant]) -> list[Variant]:
    names = _labels([axis.path for axis in axes])
    whole = [_slug([each.run.metadata.name, *_parts(names, each)]) for each in variants]
    counts = Counter(whole)
    return [
        _renamed(
            variant, name if counts[name] == 1 and len(name) <= MAX_NAME_LENGTH else _shortened(axes, variant, name)
        )
        for variant, name in zip(variants, whole, strict=True)
    ]


def _labels(paths: Sequence[str]) -> list[str]:
    """The last field of each path (with the index of a list item), or the whole path where two end alike."""
    ends = [re.sub(r"^.*?([^.]*[^.0-9][^.]*(\.[0-9]+)*)$", r"\1", path) for path in paths]
    return [end if ends.count(end) == 1 else path for path, end in zip(paths, ends, strict=True)]


def _parts(names: Sequence[str], variant: Variant) -> list[str]:
    return [f"{name}-{value}" for name, value in zip(names, variant.values, strict=True)]


def _slug(parts: Sequence[str]) -> str:
    """A name of Kubernetes, whose Jobs and hosts have no dots."""
    return "-".join(re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-") for part in parts)


def _shortened(axes: Sequence[Axis], variant: Variant, name: str) -> str:
    digest = sha256_of([variant.run.metadata.name, settings(axes, variant)])[:DIGITS]
    return f"{name[: MAX_NAME_LENGTH - DIGITS - 1].rstrip('-')}-{digest}"


def _renamed(variant: Variant, name: str) -> Variant:
    metadata, sweep = variant.run.metadata, variant.run.metadata.name
    named = metadata.model_copy(update={"name": name, "labels": RunLabels(sweep=sweep)})
    return Variant(variant.run.model_copy(update={"metadata": named}), variant.values, variant.decided)


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
    placed = [place(variant.run, machine, None) for variant in variants]
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
    try:
        found = look_into_folders(runs, "--sweep")
    except ComparisonError as error:  # the runs will say so
        print(error, file=sys.stderr)
        return {}, []
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
    return [*columns(lines), *(_sum_of(stage, list(states[stage].values()), len(variants)) for stage in stages)]


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
