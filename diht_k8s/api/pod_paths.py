"""Local paths of a run document that its pods will not find: relative ones, and those that no volume brings. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from typing import Final

from diht_k8s.api.errors import suggestion
from diht_k8s.api.field_problems import FieldProblem
from diht_k8s.api.model_names import model_names
from diht_k8s.api.named_uris import NamedUri, named_uris
from diht_k8s.api.object_stores import in_object_store
from diht_k8s.api.pods import merged
from diht_k8s.api.run import Spec, Stage, literal_part

IN_IMAGES: Final = frozenset(
    (
        "filter.clipScore.model",
        "filter.exclude",
        "label.teacher.weights",
        "train.initFrom.uri",
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
