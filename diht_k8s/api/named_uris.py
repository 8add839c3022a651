"""Every URI or path that a run document names, found by the fields' type: a new field is found without being listed.
Among them are the local paths that its pods will not find: relative ones, and those that no volume brings. Pure.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, get_args

from pydantic import BaseModel, StringConstraints
from pydantic.fields import FieldInfo

from diht_k8s.api.base import URI_PATTERN, FieldPath, in_object_store, is_list
from diht_k8s.api.documents import model_in
from diht_k8s.api.errors import suggestion
from diht_k8s.api.field_problems import FieldProblem, model_names
from diht_k8s.api.pods import merged
from diht_k8s.api.run import Spec, Stage, literal_part

RULES: Final = "storage.prefix"
"""Names no file but says for which URIs a rule is."""


@dataclass(frozen=True)
class NamedUri:
    """A URI, path or pattern, and the field that names it."""

    path: FieldPath
    """from the document's root on."""
    uri: str

    @property
    def field(self) -> str:
        """The field below `spec` without places in lists: `data.sources.shards`."""
        return ".".join(part for part in self.path[1:] if isinstance(part, str))


def uri_fields() -> list[str]:
    """All fields of that type, as `NamedUri.field` writes them."""
    return sorted(_fields(Spec, ""))


def _fields(model: type[BaseModel], before: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        path = f"{before}{field.alias or name}"
        if _holds_uri(field):
            yield path
        elif (inside := model_in(field.annotation)) is not None:
            yield from _fields(inside, f"{path}.")


def named_uris(spec: Spec) -> list[NamedUri]:
    """What a document names, in its order."""
    return [each for each in _named(spec, ("spec",)) if each.field != RULES]


def _named(value: Any, path: FieldPath) -> Iterator[NamedUri]:
    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            inside: Any = getattr(value, name)
            below = (*path, field.alias or name)
            if _holds_uri_of(type(value), name):
                yield from _uris(inside, below)
            else:
                yield from _named(inside, below)
    elif is_list(value):
        for place, item in enumerate(value):
            yield from _named(item, (*path, place))


def _uris(value: Any, path: FieldPath) -> Iterator[NamedUri]:
    if is_list(value):
        yield from (NamedUri((*path, place), item) for place, item in enumerate(value))
    elif value is not None:
        yield NamedUri(path, value)


@cache
def _holds_uri_of(model: type[BaseModel], name: str) -> bool:
    return _holds_uri(model.model_fields[name])


def _holds_uri(field: FieldInfo) -> bool:
    return _is_uri(field.metadata) or _mentions_uri(field.annotation)


def _mentions_uri(annotation: Any) -> bool:
    return _is_uri(getattr(annotation, "__metadata__", ())) or any(map(_mentions_uri, get_args(annotation)))


def _is_uri(metadata: Any) -> bool:
    return any(isinstance(each, StringConstraints) and each.pattern == URI_PATTERN for each in metadata)


IN_IMAGES: Final = frozenset(
    (
        "filter.clipScore.model",
        "filter.exclude",
        "label.teacher.weights",
        "train.initFrom.uri",
        "train.words",
        "evaluate.model",
        "evaluate.benchmarks.classNames",
    )
)
"""Single files and models, which an image may bring: that they lie under no mount proves nothing."""


def path_problems(spec: Spec) -> list[FieldProblem]:
    """Local paths that pods will not find: relative ones, and those below no volume that is mounted in them."""
    mounts = {stage: _mounts(spec, stage) for stage in spec.stages}
    return [problem for each in named_uris(spec) if (problem := _path_problem(spec, each, mounts)) is not None]


def _path_problem(spec: Spec, named: NamedUri, mounts: Mapping[Stage, Sequence[str]]) -> FieldProblem | None:
    if in_object_store(named.uri) or _is_model_name(named) or _is_network(spec, named):
        return None
    path = named.uri.removeprefix("file://")
    if not path.startswith("/"):
        near = suggestion(named.uri, model_names().of("open_clip")) if named.field == "evaluate.model" else ""
        what = near or "write s3://BUCKET/KEY, or an absolute path below a volumeMounts.mountPath"
        return FieldProblem(named.path, f"{named.uri} is a relative path, which means nothing in a pod: {what}")
    stage = FieldProblem(named.path, "").stage
    readers = spec.stages if stage is None else (stage,)
    place = posixpath.normpath(literal_part(path) or "/")
    without = [each.value for each in readers if not any(_below(place, mount) for mount in mounts[each])]
    if not without:
        return None
    says = (
        f"{named.uri} lies below no volumeMounts.mountPath of the pods of {', '.join(without)}: mount the volume "
        "that has it (pods.volumes, pods.volumeMounts), or write s3://BUCKET/KEY"
    )
    return FieldProblem(named.path, says, certain=named.field not in IN_IMAGES)


def _is_network(spec: Spec, named: NamedUri) -> bool:
    """Whether the place is a network whose weights a package brings."""
    start = None if spec.train is None else spec.train.init_from
    return named.field == "train.initFrom.uri" and start is not None and start.names_network


def _is_model_name(named: NamedUri) -> bool:
    """Whether the place is none but an open_clip NAME or NAME/TAG."""
    name = named.uri.removeprefix("open_clip/").partition("/")[0]
    return named.field == "evaluate.model" and f"open_clip/{name}" in model_names().problems


def _mounts(spec: Spec, stage: Stage) -> list[str]:
    pods = merged(spec.pods, getattr(spec, stage.value).pods)
    return [posixpath.normpath(mount["mountPath"]) for mount in pods.volume_mounts]


def _below(place: str, mount: str) -> bool:
    return place == mount or place.startswith(f"{mount.rstrip('/')}/")


def has_pods(spec: Spec) -> bool:
    """Whether a document says how its pods look: it is meant for a cluster, too."""
    return any(
        pods is not None and pods.model_fields_set
        for pods in (spec.pods, *(getattr(spec, each.value).pods for each in spec.stages))
    )
