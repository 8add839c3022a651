"""The run document: the one model that the CRD, the local runner and every stage program read."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from diht_k8s.api.base import LABEL_PATTERN, PLACEMENT, Keyed, Model, in_object_store, is_object
from diht_k8s.api.data import Data, StorageRule
from diht_k8s.api.evaluate import NO_SPLIT, Evaluate
from diht_k8s.api.filter import Filter
from diht_k8s.api.label import BOTH_TOWERS, Label
from diht_k8s.api.pods import ROOT_NEEDS_CONSENT, Pods, becomes_root, merged, unknown_mounts
from diht_k8s.api.train import (
    ELASTIC_QUEUE,
    ELASTIC_TOPOLOGY,
    INTERPOLATE_HELD_OUT,
    LATE_WARMUP,
    LOCKED_FEATURES,
    MANY_NODES,
    NO_DROPPED_PATCHES,
    OWN_CAPTIONS,
    REGRESSION_WORDS,
    RIDGE_START,
    STAGE_SAMPLES,
    STAGE_SIZES,
    STAGES_HAVE_SIZES,
    STAGES_LEARN,
    STORED_VIEWS,
    TEXT_EMBEDDINGS,
    WORDS_START,
    Train,
    few_pairs,
)

API_VERSION: Final = "diht.dev/v1alpha1"
KIND: Final = "DihtRun"
OPERATOR: Final = "diht.dev/operator"
"""Our operator in `spec.managedBy`."""
OBJECT_META: Final = frozenset(
    (
        "annotations",
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "finalizers",
        "generateName",
        "generation",
        "labels",
        "managedFields",
        "name",
        "namespace",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
        "uid",
    )
)
"""The fields of Kubernetes' ObjectMeta."""
MAX_NAME_LENGTH: Final = 40
"""Children add `-evaluate-999-9999`, and Kubernetes allows 63."""
SWEEP_LABEL: Final = "diht.dev/sweep"
"""Names the run of which a run is a variant (`diht sweep`)."""


UNKNOWN_MOUNT: Final = "volumeMounts names a volume that pods.volumes lacks: give it there"
_WILD: Final = re.compile(r"[*?\[{]")


class Stage(StrEnum):
    """The four stages, in order."""

    FILTER = "filter"
    LABEL = "label"
    TRAIN = "train"
    EVALUATE = "evaluate"


class FailurePolicy(Model):
    """When to start again."""

    max_restarts: Annotated[int, Field(ge=0, le=10000)] = 10
    """maxRestarts of a stage after its program's errors."""
    max_infrastructure_restarts: Annotated[int, Field(ge=0, le=100000)] = 1000
    """maxInfrastructureRestarts after preemptions, drains, evictions and lost nodes."""
    heal_seconds: Annotated[int, Field(ge=1, le=2**31 - 1)] = 3600
    """healSeconds of newly committed work give one restart back to each budget."""
    restart: Literal["Recreate", "InPlace"] = "Recreate"
    """restart of a training: Recreate starts new pods; InPlace restarts processes in living pods unless a pod is lost
    (with train.minNodes: the first one)."""
    scheduling_timeout_seconds: Annotated[int, Field(ge=10, le=604800)] = 600
    """schedulingTimeoutSeconds after which a partial gang is withdrawn and queued again."""
    elastic_after_seconds: Annotated[int, Field(ge=10, le=604800)] = 60
    """elasticAfterSeconds of waiting until a training with train.minNodes goes on without missing nodes."""
    elastic_every_seconds: Annotated[int, Field(ge=10, le=604800)] = 600
    """elasticEverySeconds from a start until an elastic training may take in nodes."""


class Spec(Model):
    """What to run. A stage that is left out is skipped."""

    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    """seed of all that is random; the filter is not."""
    data: Data
    """data: where pairs come from and results go."""
    storage: Annotated[list[StorageRule], Keyed("prefix"), Field(max_length=32)] = []
    """storage: how to reach URIs."""
    filter: Filter | None = None
    """filter is stage 1."""
    label: Label | None = None
    """label is stage 2."""
    train: Train | None = None
    """train is stage 3."""
    evaluate: Evaluate | None = None
    """evaluate is stage 4."""
    managed_by: Annotated[
        str | None, Field(max_length=63, pattern=r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?/[-._A-Za-z0-9]+$")
    ] = None
    """managedBy names a controller other than diht.dev/operator, such as kueue.x-k8s.io/multikueue; the operator leaves
    its runs alone."""
    pods: Pods = Pods()
    """pods of every stage."""
    suspend: bool = False
    """suspend stops the run after a checkpoint until it is false again."""
    active_deadline_seconds: Annotated[int | None, Field(ge=1, le=2**31 - 1)] = None
    """activeDeadlineSeconds of status.runningTime, after which the run fails."""
    ttl_seconds_after_finished: Annotated[int | None, Field(ge=0, le=2**31 - 1)] = None
    """ttlSecondsAfterFinished until a finished run is deleted (its output stays); unset keeps it."""
    failure_policy: Annotated[FailurePolicy, Field(json_schema_extra=PLACEMENT)] = FailurePolicy()
    """failurePolicy: when to start again."""

    @property
    def training_seed(self) -> int:
        """The seed of the training: its own, or that of the run."""
        return self.seed if self.train is None or self.train.seed is None else self.train.seed

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages that this run has, in order."""
        return tuple(stage for stage in Stage if getattr(self, stage.value) is not None)

    @model_validator(mode="after")
    def _rules(self) -> Self:
        for problem in cross_field_problems(self):
            raise ValueError(problem)
        return self


NO_SOURCES: Final = (
    "spec.data.sources is empty: filter and train read their pairs from it; give a source with its shards"
)
MIXED_SOURCES: Final = (
    "spec.data.sources has captions beside shards: give the captions a run of their own, and filter the shards "
    "that are "
    "downloaded by its result in another one"
)
ONLY_CAPTIONS: Final = (
    "spec.data.sources has captions without images: give filter and no other stage, download what it keeps and "
    "filter those shards"
)


OWN_CLASSES: Final = (
    "label.teacher.ownClasses needs label.heads.kind Sigmoid: a softmax shares one probability among all classes"
)


def cross_field_problems(spec: Spec) -> list[str]:
    """Rules over several fields, each with a message that says what to do (the CRD carries the same ones as CEL).

    Only the rule on inputs inside the own output is not in the CRD: CEL has no budget to compare that many paths,
    and the operator refuses the run by this function.
    """
    problems: list[str] = []
    if not spec.stages:
        problems.append("spec has no stage: give at least one of filter, label, train, evaluate")
    if spec.evaluate is not None and spec.train is None and spec.evaluate.model is None:
        problems.append("evaluate needs a model: give train, or evaluate.model")
    if spec.evaluate is not None and not spec.evaluate.chosen:
        problems.append(NO_SPLIT)
    if spec.label is not None and spec.filter is None:
        problems.append(
            "label reads the filter's scores: give filter (with minComplexity: 0 and minActions: 0 to keep all)"
        )
    if spec.label is not None and spec.label.teacher.own_classes and spec.label.heads.kind != "Sigmoid":
        problems.append(OWN_CLASSES)
    if (
        spec.label is not None
        and spec.label.teacher.text_embeddings
        and not spec.label.teacher.model.startswith("open_clip/")
    ):
        problems.append(BOTH_TOWERS)
    if not spec.data.sources and (spec.filter is not None or (spec.train is not None and not spec.train.shards)):
        problems.append(NO_SOURCES)
    problems += _caption_problems(spec)
    if (train := spec.train) is not None:
        problems += _train_problems(spec, train)
    for stage in spec.stages:
        pods = merged(spec.pods, getattr(spec, stage.value).pods)
        problems += [f"{stage.value}: {ROOT_NEEDS_CONSENT}"] if becomes_root(pods) else []
        unknown = unknown_mounts(pods)
        problems += [f"{stage.value}: {UNKNOWN_MOUNT} ({', '.join(unknown)})"] if unknown else []
    return problems + own_input_problems(spec)


def _caption_problems(spec: Spec) -> list[str]:
    if not any(source.captions for source in spec.data.sources):
        return []
    mixed = [MIXED_SOURCES] if any(source.shards for source in spec.data.sources) else []
    return [*mixed, *([ONLY_CAPTIONS] if spec.stages and spec.stages != (Stage.FILTER,) else [])]


def _train_problems(spec: Spec, train: Train) -> list[str]:
    problems: list[str] = []
    if (train.model is None) == (train.model_config_ is None):
        problems.append("train: give exactly one of model and modelConfig")
    if train.distillation.mode == "Concepts" and spec.label is None and train.labels is None:
        problems.append(
            "train.distillation.mode Concepts needs labels: give label, or train.labels, or set mode: Disabled"
        )
    if train.distillation.embeddings is not None:
        made = spec.label is not None and spec.label.teacher.text_embeddings
        problems += [] if made or train.labels is not None else [TEXT_EMBEDDINGS]
        problems += [OWN_CAPTIONS] if train.captions == "Drawn" else []
    processes = train.num_nodes * train.processes_per_node
    if (problem := few_pairs(train.batch_size, processes)) is not None:
        problems.append(problem)
    if (train.offload == "Optimizer" and train.zero_stage < 1) or (
        train.offload == "Parameters" and train.zero_stage < 3
    ):
        problems.append("train.offload: Optimizer needs zeroStage 1 or more, Parameters needs zeroStage 3: raise it")
    if train.schedule.type == "WSD" and train.schedule.warmup_samples > train.schedule.decay_begin(train.samples):
        problems.append(LATE_WARMUP)
    problems += _resolution_problems(train)
    return problems + _locked_tower_problems(train) + _elastic_problems(train, merged(spec.pods, train.pods))


def _resolution_problems(train: Train) -> list[str]:
    if not train.stages:
        return []
    sizes = [stage.image_size for stage in train.stages]
    found = {
        STAGE_SAMPLES: sum(stage.samples for stage in train.stages) != train.samples,
        STAGE_SIZES: sizes != sorted(sizes),
        STAGES_HAVE_SIZES: train.image_size is not None,
        STAGES_LEARN: train.lock_image_tower,
    }
    return [sentence for sentence, is_so in found.items() if is_so]


def _locked_tower_problems(train: Train) -> list[str]:
    stored = train.features == "Stored"
    found = {
        LOCKED_FEATURES: stored and not train.lock_image_tower,
        RIDGE_START: train.text_start == "Ridge" and not (train.lock_image_tower and stored),
        WORDS_START: train.words is not None and train.text_start != "Ridge",
        REGRESSION_WORDS: train.distillation.regression is not None
        and (train.words is None or train.text_start != "Ridge"),
        INTERPOLATE_HELD_OUT: bool(train.interpolate) and train.validation is None,
        STORED_VIEWS: train.feature_views > 1 and not stored,
        NO_DROPPED_PATCHES: train.patch_dropout > 0 and train.lock_image_tower,
    }
    return [sentence for sentence, is_so in found.items() if is_so]


def _elastic_problems(train: Train, pods: Pods) -> list[str]:
    if train.min_nodes is None:
        return []
    found = {
        MANY_NODES: train.min_nodes > train.num_nodes,
        ELASTIC_QUEUE: pods.queue_name is not None and pods.queueing == "PerAttempt",
        ELASTIC_TOPOLOGY: pods.topology is not None,
    }
    return [sentence for sentence, is_so in found.items() if is_so]


def source_patterns(spec: Spec) -> Iterator[tuple[str, str]]:
    """Field and URI or pattern of every source."""
    for source in spec.data.sources:
        yield from ((f"data.sources {source.name}", uri) for uri in (source.shards or source.captions or ()))


def own_input_problems(spec: Spec) -> list[str]:
    """One problem for the first source that lies inside a stage folder of the run's own output; [] if there is none."""
    for field, uri in source_patterns(spec):
        place = _normal(literal_part(uri))
        for folder in (_normal(f"{spec.data.output.rstrip('/')}/{name}") for name in Stage):
            if place == folder or place.startswith(folder + "/"):
                return [own_input_message(field, uri, folder)]
    return []


def own_input_message(field: str, uri: str, folder: str) -> str:
    """What is wrong, and what to do."""
    return (
        f"{field}: {uri} lies inside {folder}, where a stage of this output writes: move it, or choose another "
        "data.output"
    )


def literal_part(pattern: str) -> str:
    """A pattern up to the last folder before its first brace or wildcard; a plain URI as it is."""
    wild = _WILD.search(pattern)
    return pattern if wild is None else pattern[: wild.start()].rpartition("/")[0]


def _normal(uri: str) -> str:
    """One text for most spellings of a place; which folder relative paths start from is not known here."""
    if in_object_store(uri):
        return uri.rstrip("/")
    return posixpath.normpath(uri.removeprefix("file://"))


class RunLabels(Model):
    """The labels that we read; the API server keeps the others."""

    model_config = ConfigDict(extra="ignore")

    sweep: Annotated[str | None, Field(alias=SWEEP_LABEL)] = None
    """diht.dev/sweep names the run of which this one is a variant; `diht sweep` sets it."""


class Metadata(Model):
    """The part of Kubernetes' ObjectMeta that we read."""

    model_config = ConfigDict(extra="ignore")

    name: Annotated[str, Field(pattern=LABEL_PATTERN, max_length=MAX_NAME_LENGTH)]
    """name of the run: lower-case letters, digits and dashes, at most 40 characters."""
    namespace: str | None = None
    """namespace of the run."""
    labels: RunLabels = RunLabels()
    """labels of the run."""

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        unknown = sorted(set(given) - OBJECT_META) if is_object(given) else []
        if unknown:
            raise ValueError(
                f"{unknown[0]} is not a field of Kubernetes' metadata; known: {', '.join(sorted(OBJECT_META))}"
            )
        return given


class DihtRun(Model):
    """One run of the recipe."""

    model_config = ConfigDict(extra="forbid")

    api_version: Literal["diht.dev/v1alpha1"]
    """apiVersion is diht.dev/v1alpha1."""
    kind: Literal["DihtRun"]
    """kind is DihtRun."""
    metadata: Metadata
    """metadata names the run."""
    spec: Spec
    """spec says what to run."""
    status: dict[str, Any] | None = None
    """status is written by the operator and not read from files."""

    @property
    def training(self) -> Train:
        """The settings of a run that trains."""
        assert self.spec.train is not None
        return self.spec.train


def other_manager(spec: Mapping[str, Any]) -> str | None:
    """The controller to which `spec.managedBy` gives a run, as the API server has it; None is our operator."""
    manager = spec.get("managedBy") or OPERATOR
    return None if manager == OPERATOR else manager
