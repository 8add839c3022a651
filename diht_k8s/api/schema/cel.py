"""The rules that JSON schema cannot say, as CEL for the API server: over several fields, and on what may be edited.

Pure: models go in, `x-kubernetes-validations` come out. The same rules over several fields are Python in `api.run`
(for files); tests hold the two together by one table of documents. Rules on edits exist only here, since only the API
server sees
both sides.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel

from diht_k8s.api.data import SHARDS_OR_CAPTIONS
from diht_k8s.api.evaluate import NO_SPLIT
from diht_k8s.api.filter import SCORE_OR_SHARE
from diht_k8s.api.label import BOTH_TOWERS
from diht_k8s.api.pods import ONE_TOPOLOGY, WHOLE_SLICE
from diht_k8s.api.run import (
    MAX_NAME_LENGTH,
    MIXED_SOURCES,
    NO_SOURCES,
    ONLY_CAPTIONS,
    OWN_CLASSES,
    Spec,
    Stage,
)
from diht_k8s.api.train import (
    DECAY_OF_WSD,
    DECAY_SHARE,
    ELASTIC_QUEUE,
    ELASTIC_TOPOLOGY,
    FEW_PAIRS,
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
)

ALWAYS_EDITABLE: Final = ("suspend", "activeDeadlineSeconds", "ttlSecondsAfterFinished", "failurePolicy", "pods")
"""Fields of the spec that take effect at once (pods: at the next attempt)."""
EDITABLE: Final = {Stage.TRAIN: ("numNodes", "minNodes", "pods")}
"""Fields of a stage that take effect at its next attempt; of the others its pods."""


@dataclass(frozen=True)
class Rule:
    """One CEL rule."""

    rule: str
    """an expression that must be true of `self`."""
    message: str
    """what is wrong and what to do."""
    field: str = ""
    """path of the field that the error shall name, below the object that carries the rule; empty means the object."""

    def schema(self) -> dict[str, str]:
        """The rule as the CRD carries it."""
        where = {"fieldPath": f".{self.field}"} if self.field else {}
        return {"rule": self.rule, "message": self.message, **where}


def rules_of(model: str) -> list[Rule]:
    """The rules of a model by its class name; none for most."""
    return _RULES.get(model, [])


def run_rules() -> list[Rule]:
    """The rules at the root of a run, where name, spec and status are all in sight."""
    return [
        Rule(
            f"self.metadata.name.size() <= {MAX_NAME_LENGTH} && "
            "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            "metadata.name must start with a lower-case letter, hold lower-case letters, digits and dashes, and "
            "have at most "
            f"{MAX_NAME_LENGTH} characters, so that the names of its Jobs and pods fit: shorten it",
        ),
        *(_stage_rule(stage) for stage in Stage),
        *(_fixed_rule(name) for name in _fixed_fields()),
        Rule(
            f"{_names('self')} == {_names('oldSelf')}",
            "spec.data.sources cannot change its order, which decides the order of training: delete the run and "
            "apply it again",
            "spec.data",
        ),
    ]


def wire_names(model: type[BaseModel]) -> list[str]:
    """The names of a model's fields in documents."""
    return [field.alias or name for name, field in model.model_fields.items()]


def _value(name: str, model: type[BaseModel], path: str = "self") -> str:
    """A number or string of `self` with the model's default where it is not given."""
    default = next(field.default for key, field in model.model_fields.items() if name in (key, field.alias))
    literal = f"'{default}'" if isinstance(default, str) else str(default)
    return f"(has({path}.{name}) ? {path}.{name} : {literal})"


def _same(path: str) -> str:
    """Whether the field is untouched; a rule on the field itself would be passed by removing it and adding it again."""
    new, old = f"self.{path}", f"oldSelf.{path}"
    return f"has({new}) == has({old}) && (!has({new}) || {new} == {old})"


def _all(conditions: Iterable[str]) -> str:
    return " && ".join(f"({condition})" for condition in conditions)


_ENDED: Final = (
    "has(oldSelf.status) && has(oldSelf.status.conditions) && "
    "oldSelf.status.conditions.exists(c, c.type in ['Complete', 'Failed'] && c.status == 'True')"
)


def _started(stage: Stage) -> str:
    return (
        "has(oldSelf.status) && has(oldSelf.status.stages) && "
        f"oldSelf.status.stages.exists(s, s.stage == '{stage.value}' && s.state != 'Pending')"
    )


def _names(run: str) -> str:
    """The names of a run's sources, in order."""
    return f"(has({run}.spec.data.sources) ? {run}.spec.data.sources.map(s, s.name) : [])"


def _stage_rule(stage: Stage) -> Rule:
    """A stage's part of the spec, all but what counts from the next attempt on, is fixed once it has started or the
    run has ended.
    """
    path, editable = f"spec.{stage.value}", EDITABLE.get(stage, ("pods",))
    parts = [f"{path}.{name}" for name in wire_names(_model_of(stage)) if name not in editable]
    untouched = (
        f"has(self.{path}) == has(oldSelf.{path}) && (!has(self.{path}) || {_all(_same(part) for part in parts)})"
    )
    return Rule(
        f"!(({_ENDED}) || ({_started(stage)})) || ({untouched})",
        f"spec.{stage.value} cannot change once the stage has started or the run has ended (its "
        f"{' and '.join(editable)} can): delete the run and "
        "apply it again; what is committed and unchanged is not computed again",
        path,
    )


def _model_of(stage: Stage) -> type[BaseModel]:
    annotation: Any = Spec.model_fields[stage.value].annotation
    return next(part for part in annotation.__args__ if isinstance(part, type) and issubclass(part, BaseModel))


def _fixed_fields() -> list[str]:
    stages = {stage.value for stage in Stage}
    return [name for name in wire_names(Spec) if name not in stages and name not in ALWAYS_EDITABLE]


def _fixed_rule(name: str) -> Rule:
    return Rule(
        _same(f"spec.{name}"),
        f"spec.{name} cannot change after the run was created: delete the run and apply it again; what is "
        "committed and "
        "unchanged is not computed again",
        f"spec.{name}",
    )


_TEXT_EMBEDDINGS: Final = (
    "(has(self.label.teacher) && has(self.label.teacher.textEmbeddings) && self.label.teacher.textEmbeddings)"
)


def _spec_rules() -> list[Rule]:
    stages = " || ".join(f"has(self.{stage.value})" for stage in Stage)
    return [
        Rule(stages, "spec has no stage: give at least one of filter, label, train, evaluate"),
        Rule(
            "!has(self.evaluate) || has(self.train) || has(self.evaluate.model)",
            "evaluate needs a model: give train, or evaluate.model",
            "evaluate",
        ),
        Rule(
            "!has(self.evaluate) || !has(self.evaluate.split) || self.evaluate.benchmarks.exists(each, "
            "has(each.split) && "
            "each.split == self.evaluate.split)",
            NO_SPLIT,
            "evaluate",
        ),
        Rule(
            "!has(self.label) || has(self.filter)",
            "label reads the filter's scores: give filter (with minComplexity: 0 and minActions: 0 to keep all)",
            "label",
        ),
        Rule(
            "!has(self.label) || !has(self.label.teacher) || !has(self.label.teacher.ownClasses) || "
            "!self.label.teacher.ownClasses || (has(self.label.heads) && has(self.label.heads.kind) && "
            "self.label.heads.kind == 'Sigmoid')",
            OWN_CLASSES,
            "label",
        ),
        Rule(
            f"!has(self.label) || !{_TEXT_EMBEDDINGS} || (has(self.label.teacher.model) && "
            "self.label.teacher.model.startsWith('open_clip/'))",
            BOTH_TOWERS,
            "label",
        ),
        Rule(
            "!has(self.train) || !has(self.train.distillation) || !has(self.train.distillation.embeddings) || "
            f"has(self.train.labels) || (has(self.label) && {_TEXT_EMBEDDINGS})",
            TEXT_EMBEDDINGS,
            "train",
        ),
        Rule(
            "!has(self.train) || has(self.label) || has(self.train.labels) || (has(self.train.distillation) && "
            "has(self.train.distillation.mode) && self.train.distillation.mode == 'Disabled')",
            "train.distillation.mode Concepts needs labels: give label, or train.labels, or set mode: Disabled",
            "train",
        ),
        Rule(
            "(has(self.data.sources) && self.data.sources.size() > 0) || (!has(self.filter) && "
            "(!has(self.train) || (has(self.train.shards) && self.train.shards.size() > 0)))",
            NO_SOURCES,
            "data",
        ),
        Rule(
            "!has(self.data.sources) || self.data.sources.all(each, has(each.shards)) || "
            "self.data.sources.all(each, has(each.captions))",
            MIXED_SOURCES,
            "data",
        ),
        Rule(
            "!has(self.data.sources) || self.data.sources.all(each, has(each.shards)) || "
            "(has(self.filter) && !has(self.label) && !has(self.train) && !has(self.evaluate))",
            ONLY_CAPTIONS,
            "data",
        ),
        *_elastic_rules(),
    ]


def _elastic_rules() -> list[Rule]:
    """A stage's own fields of its pods replace those of all stages."""
    rigid = "!has(self.train) || !has(self.train.minNodes)"
    of_train, common = "has(self.train.pods) && has(self.train.pods", "has(self.pods) && has(self.pods"
    queueing = (
        f"{of_train}.queueing) ? self.train.pods.queueing : {common}.queueing) ? self.pods.queueing : 'PerAttempt'"
    )
    return [
        Rule(
            f"{rigid} || !(({of_train}.queueName)) || ({common}.queueName))) || ({queueing}) != 'PerAttempt'",
            ELASTIC_QUEUE,
            "train",
        ),
        Rule(f"{rigid} || !(({of_train}.topology)) || ({common}.topology)))", ELASTIC_TOPOLOGY, "train"),
    ]


def _train_rules() -> list[Rule]:
    processes = f"{_value('numNodes', Train)} * {_value('processesPerNode', Train)}"
    batch, offload, zero = (_value(name, Train) for name in ("batchSize", "offload", "zeroStage"))
    features, views, dropped, start, captions = (
        _value(name, Train) for name in ("features", "featureViews", "patchDropout", "textStart", "captions")
    )
    locked = "(has(self.lockImageTower) && self.lockImageTower)"
    constant = "!has(self.stages) || self.stages.size() == 0"
    schedule = "self.schedule"
    is_wsd = f"has({schedule}) && has({schedule}.type) && {schedule}.type == 'WSD' && has({schedule}.warmupSamples)"
    share = f"(has({schedule}.decayShare) ? {schedule}.decayShare : {DECAY_SHARE})"
    return [
        Rule("has(self.model) != has(self.modelConfig)", "train: give exactly one of model and modelConfig"),
        Rule(f"{batch} >= 2 && {batch} >= {processes}", FEW_PAIRS),
        Rule(f"!has(self.minNodes) || self.minNodes <= {_value('numNodes', Train)}", MANY_NODES),
        Rule(
            f"{offload} == 'None' || {zero} >= ({offload} == 'Parameters' ? 3 : 1)",
            "train.offload: Optimizer needs zeroStage 1 or more, Parameters needs zeroStage 3: raise it",
        ),
        Rule(f"{constant} || self.stages.map(stage, stage.samples).sum() == self.samples", STAGE_SAMPLES),
        Rule(f"{constant} || self.stages.map(stage, stage.imageSize).isSorted()", STAGE_SIZES),
        Rule(f"{constant} || !has(self.imageSize)", STAGES_HAVE_SIZES),
        Rule(f"{constant} || !{locked}", STAGES_LEARN),
        Rule(f"{features} != 'Stored' || {locked}", LOCKED_FEATURES),
        Rule(f"{views} == 1 || {features} == 'Stored'", STORED_VIEWS),
        Rule(f"{start} != 'Ridge' || ({locked} && {features} == 'Stored')", RIDGE_START),
        Rule(f"!has(self.words) || {start} == 'Ridge'", WORDS_START),
        Rule(
            f"!has(self.distillation) || !has(self.distillation.regression) || (has(self.words) && {start} == 'Ridge')",
            REGRESSION_WORDS,
        ),
        Rule("!has(self.interpolate) || self.interpolate.size() == 0 || has(self.validation)", INTERPOLATE_HELD_OUT),
        Rule(f"!{locked} || {dropped} == 0.0", NO_DROPPED_PATCHES),
        Rule(f"!({is_wsd}) || double({schedule}.warmupSamples) <= (1.0 - {share}) * double(self.samples)", LATE_WARMUP),
        Rule(f"!has(self.distillation) || !has(self.distillation.embeddings) || {captions} != 'Drawn'", OWN_CAPTIONS),
    ]


_RULES: Final[dict[str, list[Rule]]] = {
    "Spec": _spec_rules(),
    "Train": _train_rules(),
    "Schedule": [Rule("!has(self.decayShare) || (has(self.type) && self.type == 'WSD')", DECAY_OF_WSD)],
    "Source": [Rule("has(self.shards) != has(self.captions)", SHARDS_OR_CAPTIONS)],
    "ClipScore": [Rule("has(self.minScore) != has(self.keepShare)", SCORE_OR_SHARE)],
    "EnvVar": [Rule("!has(self.value) || !has(self.valueFrom)", "give value or valueFrom, not both")],
    "Topology": [
        Rule(
            "[has(self.required), has(self.preferred), has(self.unconstrained)].filter(given, given).size() <= 1",
            ONE_TOPOLOGY,
        ),
        Rule("has(self.sliceRequired) == has(self.sliceSize)", WHOLE_SLICE),
    ],
    "StageStatus": [
        Rule(
            "!has(oldSelf.attempt) || oldSelf.attempt == 0 || (has(self.attempt) && self.attempt >= oldSelf.attempt)",
            "attempt never goes back: this status was written from a stale view, read the run again",
        )
    ],
}
