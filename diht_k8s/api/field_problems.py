"""What the text of a run document names and does not exist or cannot be trained: models, benchmarks, weights that no
package brings. Pure.

`diht validate`, `submit`, `run` and the operator say it, all problems at once; what files hold is checked where they
are (`inspection.named_files`).

The names that open_clip, timm and our SWAG teachers know are a list that this package ships (`model_names.txt`), since
the operator and `diht validate` have none of these packages. A name that the list lacks may be sound where another
version of its package is installed than the list is of.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata, resources
from types import MappingProxyType
from typing import Final

from diht_k8s.api.base import FieldPath, dotted
from diht_k8s.api.errors import UserError, suggestion
from diht_k8s.api.evaluate import Evaluate
from diht_k8s.api.filter import Filter
from diht_k8s.api.gangs import min_nodes_without_effect, shows_batch_statistics, unequal_parts
from diht_k8s.api.kubernetes_types.objects import number_of
from diht_k8s.api.label import PACKAGED_TEACHERS, Label
from diht_k8s.api.pods import Pods, merged
from diht_k8s.api.run import Spec, Stage
from diht_k8s.api.train import CLIPS_ONLY, Train

OPEN_CLIP: Final = "open_clip_torch"
TIMM: Final = "timm"
LIBRARIES: Final = MappingProxyType({"open_clip": OPEN_CLIP, "timm": TIMM, "swag": ""})
"""First part of a teacher's name -> the package that has its models; "" for those that we name ourselves."""


@dataclass(frozen=True)
class ModelNames:
    """The list."""

    versions: Mapping[str, str]
    """package -> its version."""
    problems: Mapping[str, str]
    """LIBRARY/NAME -> what a training refuses about that open_clip model; "" for all others."""

    def of(self, library: str) -> list[str]:
        """The names of a library, without it."""
        return [name.partition("/")[2] for name in self.problems if name.startswith(f"{library}/")]


@dataclass(frozen=True)
class NameProblem:
    """What is wrong with a name."""

    message: str
    certain: bool
    """False where the installed package may know the name: its version is not that of the list."""


@cache
def model_names() -> ModelNames:
    """The shipped list."""
    text = resources.files("diht_k8s.api").joinpath("model_names.txt").read_text(encoding="utf-8")
    versions, *lines = (line for line in text.splitlines() if not line.startswith("#"))
    pairs = (line.partition(" ") for line in lines)
    return ModelNames(
        MappingProxyType(dict(each.split("==") for each in versions.split())),  # type: ignore[arg-type]
        MappingProxyType({name: problem for name, _, problem in pairs}),
    )


def unknown_name(library: str, name: str) -> NameProblem | None:
    """What to do about a name that a library does not know; None if it does.

    Args:
        library: one of `LIBRARIES`.
        name: without the library; timm's may carry a tag (`resnet50.a1_in1k`), which says nothing here.
    """
    known, package = model_names(), LIBRARIES[library]
    plain = name.partition(".")[0] if library == "timm" else name
    if f"{library}/{plain}" in known.problems:
        return None
    who = f"{library} {known.versions[package]}" if package else f"{library} (there are {', '.join(known.of(library))})"
    hint = suggestion(plain, known.of(library), "check the name", cutoff=0.5)
    return NameProblem(f"{name} is not known to {who}: {hint}", certain=not _other_version(package))


def _other_version(package: str) -> bool:
    """Whether another version of a package is installed than the list is of."""
    try:
        return bool(package) and metadata.version(package) != model_names().versions[package]
    except metadata.PackageNotFoundError:
        return False


@dataclass(frozen=True)
class FieldProblem:
    """What is wrong with what a field names."""

    field: FieldPath
    """from the document's root on, as the document writes it."""
    message: str
    """what, and what to do."""
    certain: bool = True
    """False: a warning, since the run may know better."""

    @property
    def stage(self) -> Stage | None:
        """The stage whose field it is; None for fields of the whole run."""
        return Stage(self.field[1]) if self.field[1] in list(Stage) else None

    def __str__(self) -> str:
        """`spec.train.model: ViT-B-33 is not known ...`."""
        return f"{dotted(self.field)}: {self.message}"


def refuse(problems: Iterable[FieldProblem]) -> None:
    """Raise UserError with a line for each problem that is certain, if there is one."""
    if lines := [str(problem) for problem in problems if problem.certain]:
        raise UserError("\n".join(lines))


def text_problems(spec: Spec) -> list[FieldProblem]:
    """Names that nobody knows, by the lists that this package ships and by the document itself."""
    found = list[FieldProblem]()
    if spec.filter is not None:
        found += _of_filter(spec.filter, spec.evaluate)
    if spec.label is not None:
        found += _of_label(spec.label)
    if spec.train is not None:
        found += _of_train(spec.train)
        found += _of_cards(spec.train.processes_per_node, merged(spec.pods, spec.train.pods))
    return found


def _of_filter(rules: Filter, evaluate: Evaluate | None) -> Iterator[FieldProblem]:
    known = [] if evaluate is None else [benchmark.name for benchmark in evaluate.benchmarks]
    for place, name in enumerate(rules.decontaminate):
        if name not in known:
            there = f"no benchmark is called {name} (there are: {', '.join(known) or 'none'})"
            hint = suggestion(name, known, "add it to spec.evaluate.benchmarks")
            yield FieldProblem(("spec", "filter", "decontaminate", place), f"{there}: {hint}")
    if rules.clip_score is not None and (name := rules.clip_score.architecture) is not None:
        field = ("spec", "filter", "clipScore", "architecture")
        yield from _named(field, unknown_name("open_clip", name))


def _of_label(label: Label) -> Iterator[FieldProblem]:
    model, field = label.teacher.model, ("spec", "label", "teacher", "model")
    library, _, name = model.partition("/")
    if not name or library not in LIBRARIES:
        libraries = ", ".join(f"{each}/NAME" for each in LIBRARIES)
        hint = next((f", did you mean {each}/{model}?" for each in LIBRARIES if model in model_names().of(each)), "")
        yield FieldProblem(field, f"{model} is unknown: write {libraries}{hint}")
    elif (problem := unknown_name(library, name)) is not None:
        yield from _named(field, problem)
    elif label.teacher.weights is None and model not in PACKAGED_TEACHERS:
        advice = f"name a .safetensors or .pth file, or take one of {', '.join(PACKAGED_TEACHERS)}"
        unset = ("spec", "label", "teacher", "weights")
        yield FieldProblem(unset, f"is not set, and no package brings the weights of {model}: {advice}")
    if label.teacher.text_embeddings and (refused := model_names().problems.get(model)):
        texts = ("spec", "label", "teacher", "textEmbeddings")
        yield FieldProblem(
            texts, f"{name} {refused}: captions are read by CLIP's tokenizer only, choose such a teacher"
        )


def _of_train(train: Train) -> Iterator[FieldProblem]:
    start = train.init_from
    if start is not None and start.names_network and start.uri not in PACKAGED_TEACHERS:
        advice = f"give a .safetensors or .pth file, or take one of {', '.join(PACKAGED_TEACHERS)}"
        unpacked = ("spec", "train", "initFrom", "uri")
        yield FieldProblem(unpacked, f"no package brings the weights of {start.uri}: {advice}")
    processes = train.num_nodes * train.processes_per_node
    if shows_batch_statistics(train) and (unequal := unequal_parts(train, processes)) is not None:
        yield FieldProblem(("spec", "train", unequal.field), unequal.message)
    elif (message := min_nodes_without_effect(train)) is not None:
        yield FieldProblem(("spec", "train", "minNodes"), message, certain=False)
    if train.model is None:
        return
    field = ("spec", "train", "model")
    if (problem := unknown_name("open_clip", train.model)) is not None:
        own = NameProblem(f"{problem.message} (a model of your own is train.modelConfig)", problem.certain)
        yield from _named(field, own)
    elif refused := model_names().problems[f"open_clip/{train.model}"]:
        yield FieldProblem(field, f"{train.model} {refused}: {CLIPS_ONLY}")


def _of_cards(processes: int, pods: Pods) -> Iterator[FieldProblem]:
    """A rank uses one GPU: others of its pod stay idle, and without one it cannot start (see the preflight)."""
    gpus = int(number_of(pods.resources.get("nvidia.com/gpu", 0)))
    if gpus and processes != gpus:
        said = f"{gpus - processes} stay idle" if processes < gpus else "each rank needs one"
        message = (
            f"is {processes} where a pod asks for nvidia.com/gpu: {gpus}, {said}: write train.processesPerNode: {gpus}"
        )
        yield FieldProblem(("spec", "train", "processesPerNode"), message, certain=processes > gpus)


def _named(field: FieldPath, problem: NameProblem | None) -> Iterator[FieldProblem]:
    if problem is not None:
        yield FieldProblem(field, problem.message, problem.certain)
