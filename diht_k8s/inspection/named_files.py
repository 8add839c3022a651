"""Whether the files that a run document names are there and fit: shards, lists, class names, models, weights.

It reads little: listings, headers, small texts. A network that weights must fit is built without memory for it, by the
code that loads it later; torch is imported for that, and open_clip for its names, alone.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final

from diht_k8s.api.base import FieldPath
from diht_k8s.api.errors import DataError, UserError
from diht_k8s.api.evaluate import Benchmark
from diht_k8s.api.field_problems import FieldProblem, text_problems
from diht_k8s.api.label import PACKAGED_TEACHERS, Label
from diht_k8s.api.layout import MARKER, Layout
from diht_k8s.api.named_uris import NamedUri, named_uris
from diht_k8s.api.run import Spec, Stage
from diht_k8s.data.shards.storage import Storage
from diht_k8s.models.files import CONFIG_NAME
from diht_k8s.models.loading import find_weights, published
from diht_k8s.models.word_vectors import token_vectors
from diht_k8s.runtime.commit import find_committed
from diht_k8s.stages.evaluate.class_texts import class_names, templates_of
from diht_k8s.stages.label.teacher_weights import weights_uri
from diht_k8s.stages.train.checkpoint.init_from import weights_file
from diht_k8s.stages.train.model.configurations import model_configuration
from diht_k8s.stages.train.stage import check_labels

Check = Callable[[Spec, Storage, str], object]
"""Raises UserError or DataError if what a URI names is not there or does not fit."""


def file_problems(spec: Spec, storage: Storage, stages: Sequence[Stage]) -> list[FieldProblem]:
    """All of them, in the document's order.

    Args:
        spec: of the run.
        storage: of its files.
        stages: that will run; what only others read is not looked at.

    Raises:
        RetryableError: the storage does not answer.
    """
    wrong = cache(lambda field, uri: _wrong(lambda: CHECKS[field](spec, storage, uri)))
    named = [each for each in named_uris(spec) if each.field in CHECKS and _is_read(spec, each, stages)]
    found = [
        FieldProblem(each.path, said.removeprefix("train.initFrom "))
        for each in named
        if (said := wrong(each.field, each.uri)) is not None
    ]
    if spec.label is not None and spec.label.teacher.weights is None and Stage.LABEL in stages:
        found += _without_weights(spec.label)
    if spec.evaluate is not None and Stage.EVALUATE in stages:
        for place, benchmark in enumerate(spec.evaluate.benchmarks):
            if benchmark in spec.evaluate.chosen:
                found += _texts(("spec", "evaluate", "benchmarks", place), benchmark, storage)
    return found


def absent_shards(spec: Spec, storage: Storage) -> list[FieldProblem]:
    """Patterns that match nothing on this machine; doubtful, since a document may be checked where its data are not."""
    return [
        FieldProblem(each.path, said, certain=False)
        for each in named_uris(spec)
        if CHECKS.get(each.field) is _listed
        and storage.local_path(each.uri) is not None
        and (said := _wrong(lambda uri=each.uri: _listed(spec, storage, uri))) is not None
    ]


def _is_read(spec: Spec, named: NamedUri, stages: Sequence[Stage]) -> bool:
    """Whether one of some stages reads what a field names."""
    if named.field.startswith("data.sources."):
        copied = spec.filter is not None and spec.filter.output == "Shards"
        own = spec.train is not None and bool(spec.train.shards)
        return Stage.FILTER in stages or (not copied and Stage.TRAIN in stages and not own)
    if named.field.startswith("evaluate.benchmarks."):
        place = named.path[3]
        assert isinstance(place, int)
        assert spec.evaluate is not None
        benchmark = spec.evaluate.benchmarks[place]
        kept_out = spec.filter is not None and benchmark.name in spec.filter.decontaminate
        measured = Stage.EVALUATE in stages and benchmark in spec.evaluate.chosen
        return measured or (kept_out and Stage.FILTER in stages)
    return named.path[1] in stages


def _wrong(check: Callable[[], object]) -> str | None:
    """What a check says; None if nothing is wrong."""
    try:
        check()
    except (UserError, DataError) as error:
        return str(error)
    return None


def _listed(spec: Spec, storage: Storage, pattern: str) -> None:
    with contextlib.redirect_stderr(io.StringIO()):  # the stage that reads them tells of those that are absent
        storage.list_files([pattern])


def _read_text(spec: Spec, storage: Storage, uri: str) -> None:
    storage.read_text(uri)


def _folder(spec: Spec, storage: Storage, uri: str) -> None:
    if not storage.exists(uri):
        raise UserError(f"{uri} does not exist: give the folder OUTPUT/filter/DIGEST of another run")


def _labels(spec: Spec, storage: Storage, uri: str) -> None:
    layout = Layout(spec.data.output).with_folder(Stage.LABEL, uri.rstrip("/"))
    if (label := find_committed(storage, layout, Stage.LABEL)) is None:
        raise UserError(f"{uri} holds no finished labels: give the folder OUTPUT/label/DIGEST of another run")
    assert spec.train is not None
    check_labels(spec.train, layout, label)


def _model(spec: Spec, storage: Storage, source: str) -> None:
    if find_weights(source, storage) is None:
        published(source)


def _model_files(spec: Spec, storage: Storage, source: str) -> None:
    if find_weights(source, storage) is None:
        raise UserError(f"{source} does not exist: give a folder with {CONFIG_NAME}, or a weights file")


def _teacher_weights(spec: Spec, storage: Storage, uri: str) -> None:
    assert spec.label is not None
    teacher = spec.label.teacher
    storage.size(uri)
    if any(problem.field == ("spec", "label", "teacher", "model") for problem in text_problems(spec)):
        return
    from diht_k8s.models.files import read_shapes
    from diht_k8s.stages.label.teacher import check_weights

    with warnings.catch_warnings(action="ignore"):  # torch's, of loading nothing
        check_weights(teacher, read_shapes(storage, uri), uri)


def _first_weights(spec: Spec, storage: Storage, uri: str) -> None:
    train = spec.train
    assert train is not None
    assert train.init_from is not None
    place = weights_file(storage, train.init_from)
    storage.size(place)
    if place.endswith(MARKER):
        return  # a checkpoint is read by all ranks together
    try:
        configuration = model_configuration(train)
    except UserError:
        return  # a problem of train.model
    import torch

    from diht_k8s.models.files import read_shapes
    from diht_k8s.stages.train.checkpoint.warm_start import load_first_weights
    from diht_k8s.stages.train.model.student import Student
    from diht_k8s.stages.train.model.token_ridge import require_fewer_dimensions

    with torch.device("meta"):
        student = Student(configuration)
    with warnings.catch_warnings(action="ignore"):
        load_first_weights(student, read_shapes(storage, place), place, image_only=train.text_start == "Ridge")
    if train.text_start == "Ridge":
        projection: Any = student.clip.get_submodule("visual.head.proj")
        require_fewer_dimensions(projection.out_features, projection.in_features)


def _words(_spec: Spec, storage: Storage, uri: str) -> None:
    storage.size(uri)
    if not uri.endswith(".safetensors"):
        return  # published tables of text take gigabytes
    from open_clip.tokenizer import SimpleTokenizer

    token_vectors(storage, uri, SimpleTokenizer().encoder)


CHECKS: Final[Mapping[str, Check]] = {
    "data.sources.shards": _listed,
    "data.sources.captions": _listed,
    "filter.clipScore.model": _model_files,
    "filter.exclude": _read_text,
    "filter.scoresFrom": _folder,
    "label.teacher.weights": _teacher_weights,
    "train.shards": _listed,
    "train.labels": _labels,
    "train.initFrom.uri": _first_weights,
    "train.words": _words,
    "train.validation.shards": _listed,
    "evaluate.model": _model,
    "evaluate.benchmarks.shards": _listed,
}
"""By field; class names are read with templates (`_texts`), and `data.output` is tried by writing
(`storage_checks`).
"""


def _without_weights(label: Label) -> Iterator[FieldProblem]:
    """Whether the package is there whose weights the teacher takes."""
    if label.teacher.model in PACKAGED_TEACHERS and (said := _wrong(lambda: weights_uri(label.teacher))) is not None:
        yield FieldProblem(("spec", "label", "teacher", "weights"), said)


def _texts(field: FieldPath, benchmark: Benchmark, storage: Storage) -> Iterator[FieldProblem]:
    """Class names and templates, given or found beside the shards."""
    for name, read in (("classNames", class_names), ("templates", templates_of)):
        if (said := _wrong(lambda read=read: read(storage, benchmark))) is not None:
            yield FieldProblem((*field, name), said)
