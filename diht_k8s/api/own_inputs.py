"""A run must not read what it writes or removes: inputs inside the stage folders of its own output are refused.

Pure text work on a document. Stage programs check again with patterns expanded and paths resolved
(`recipe.runtime.own_inputs`). Another run's stage folders are legal inputs.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from diht_k8s.api.run import Spec, Stage

Inputs = list[tuple[str, str | None]]
"""Fields and what they name, None where it is not set."""
_OWN_BY_DEFAULT: Final = ("filter.scoresFrom", "train.shards", "train.labels", "evaluate.model")
"""Fields without which a run uses its own output."""
_WILD: Final = re.compile(r"[*?\[{]")


def input_uris(spec: Spec) -> Iterator[tuple[str, str]]:
    """Field and URI or pattern of every input that a document names."""
    for source in spec.data.sources:
        yield from ((f"data.sources {source.name}", uri) for uri in (source.shards or source.captions or ()))
    for stage in spec.stages:
        yield from ((name, uri) for name, uri in _STAGE_INPUTS[stage.value](spec) if uri is not None)


def _of_filter(spec: Spec) -> Inputs:
    rules = spec.filter
    assert rules is not None
    return [
        ("filter.exclude", rules.exclude),
        ("filter.scoresFrom", rules.scores_from),
        ("filter.clipScore.model", None if rules.clip_score is None else rules.clip_score.model),
    ]


def _of_label(spec: Spec) -> Inputs:
    assert spec.label is not None
    return [("label.teacher.weights", spec.label.teacher.weights)]


def _of_train(spec: Spec) -> Inputs:
    train = spec.train
    assert train is not None
    return [
        *(("train.shards", uri) for uri in train.shards),
        ("train.labels", train.labels),
        ("train.initFrom.uri", None if train.init_from is None else train.init_from.uri),
        *(("train.validation.shards", uri) for uri in (train.validation.shards if train.validation else ())),
    ]


def _of_evaluate(spec: Spec) -> Inputs:
    assert spec.evaluate is not None
    found: Inputs = [("evaluate.model", spec.evaluate.model)]
    for benchmark in spec.evaluate.benchmarks:
        found += [(f"evaluate.benchmarks {benchmark.name}", uri) for uri in benchmark.shards]
        found.append((f"evaluate.benchmarks {benchmark.name}: classNames", benchmark.class_names))
    return found


_STAGE_INPUTS: Final = {"filter": _of_filter, "label": _of_label, "train": _of_train, "evaluate": _of_evaluate}


def own_input_problems(spec: Spec) -> list[str]:
    """One problem for the first input that lies inside a stage folder of the run's own output; [] if there is none."""
    folders = {stage: _normal(f"{spec.data.output.rstrip('/')}/{stage.value}") for stage in spec.stages}
    for field, uri in input_uris(spec):
        place = _normal(literal_part(uri))
        for stage, folder in folders.items():
            if place == folder or place.startswith(folder + "/"):
                return [own_input_message(field, uri, folder, stage)]
    return []


def own_input_message(field: str, uri: str, folder: str, stage: Stage) -> str:
    """What is wrong, and what to do."""
    hint = "leave it out to use this run's own output, or choose" if field in _OWN_BY_DEFAULT else "move it, or choose"
    return (
        f"{field}: {uri} lies inside {folder}, which the stage {stage.value} of this run writes and --replace clears: "
        f"{hint} another data.output"
    )


def literal_part(pattern: str) -> str:
    """A pattern up to the last folder before its first brace or wildcard; a plain URI as it is."""
    wild = _WILD.search(pattern)
    return pattern if wild is None else pattern[: wild.start()].rpartition("/")[0]


def _normal(uri: str) -> str:
    """One text for most spellings of a place; which folder relative paths start from is not known here."""
    if uri.startswith("s3://"):
        return uri.rstrip("/")
    return posixpath.normpath(uri.removeprefix("file://"))
