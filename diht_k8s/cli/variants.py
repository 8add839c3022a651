"""The variants of a run document: the product of values of its fields, each a run with a name of its own. Pure.

`--vary PATH=V1,V2`: commas separate values, except inside brackets, braces and quotes; each value is read as `--set
PATH=VALUE` reads it, so `--vary data.sources.0.shards=[a.tar],[a.tar,b.tar]` has two.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from diht_k8s.api.documents import canonical_json, load, override_value
from diht_k8s.api.errors import UserError
from diht_k8s.api.hashing import decided_by, field_without_result, sha256_of
from diht_k8s.api.redaction import redacted_override
from diht_k8s.api.run import MAX_NAME_LENGTH, DihtRun, RunLabels, Stage

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
