"""The run document of `diht init`: its defaults, from a data set's profile and a machine, and the YAML with a comment
on each. Pure; all defaults are our choice.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Final, Literal

from diht_k8s import __version__
from diht_k8s.api.errors import DataError
from diht_k8s.api.filter import Filter
from diht_k8s.api.label import Vocabulary
from diht_k8s.api.layout import join
from diht_k8s.api.wording import counted
from diht_k8s.cli.placement import Machine
from diht_k8s.inspection.dataset_profile import (
    DEVELOPMENT,
    EXCLUDE,
    SHARD,
    DatasetProfile,
    HeldOut,
    ProfiledPair,
    concept_counts,
)
from diht_k8s.stages.label.vocabulary import freeze

Hardware = Literal["laptop", "gpu-node", "cluster"]
LEAST_PAIRS: Final = 20
"""Fewer usable pairs are refused: two thirds of them would be held out or dropped."""
SMALL_POOL: Final = 100_000
"""Fewer pairs are filtered by objects alone: C and A, made for billions of alt texts, cost such a pool more than they
gain.
"""
LEAST_SHARE: Final = 0.4
"""A rule that keeps a smaller share of the captions is switched off: it is made for the web, not for this data."""
MIN_COUNTS: Final = (5, 3, 2)
MOST_TOP_K: Final = 10
ENGLISH: Final = 0.5
"""Below this share of captions without a sign of another language, captions are not filtered by language."""
CPU_SAMPLES: Final = 307_200
"""Samples that two CPU cores train on in some minutes on stored features."""
EPOCHS: Final = 30
RIDGE_EPOCHS: Final = 5
"""Of a text tower that begins as a regression on all pairs; more learn them by heart."""
LEAST_DEVELOPMENT: Final = 16
"""Pairs for development that a batch of a small pool gets smaller for; fewer choose nothing."""
SAFETY: Final = 0.8
"""Share of the pairs whose captions pass that is counted on: the T rule and damaged images take some more."""
PAPER: Final = Filter()
WITHOUT_ACTIONS: Final = Filter(min_actions=0)
OBJECTS: Final = Filter(min_objects=1, min_complexity=0, min_actions=0)
LARGE: Final = ((500_000_000, "ViT-L-14", 16384), (10_000_000, "ViT-B-16", 16384), (0, "ViT-B-32", 8192))
"""Number of pairs -> model and largest batch."""
PODS: Final = 2
GPUS_A_POD: Final = 8


@dataclass(frozen=True)
class RunDefaults:
    """The values that the document gets."""

    hardware: Hardware
    objects: int
    complexity: int
    actions: int
    shares: tuple[float, float, float, float]
    """of the captions: pass C and A, pass C, name an object, are without a sign of another language."""
    english: bool
    max_bad_percent: float
    detector_size: int
    decontaminate: bool
    kept: int
    """pairs that are counted on after the filter."""
    min_count: int
    top_k: int
    """0 where the captions have too few concepts for distillation."""
    classes: tuple[int, int]
    """objects and attributes that are counted on."""
    model: str | None
    """None takes a packaged image tower, locked, on stored features, which CPUs bear."""
    ridge: bool
    """whether its text tower begins as a ridge regression."""
    batch: int
    micro_batch: int | None
    samples: int
    warmup: int
    processes: int
    nodes: int
    workers: int
    validates: bool


def choose_defaults(profile: DatasetProfile, held: HeldOut, machine: Machine, hardware: Hardware) -> RunDefaults:
    """The defaults that fit.

    Raises:
        DataError: there are too few pairs.
    """
    small = profile.total < SMALL_POOL
    strict, loose, named = (
        len(profile.kept(rules)) / len(profile.pairs) for rules in (PAPER, WITHOUT_ACTIONS, OBJECTS)
    )
    actions = int(not small and strict >= LEAST_SHARE)
    complexity = int(not small and (strict >= LEAST_SHARE or loose >= LEAST_SHARE))
    objects = int(not complexity and named >= LEAST_SHARE)
    english = profile.english()
    rules = Filter(min_objects=objects, min_complexity=complexity, min_actions=actions)
    passing = profile.kept(rules, held.excluded)
    decontaminate = held.near <= 1 / 10
    share = len(passing) / max(1, profile.sampled) * SAFETY * ((1 - held.near) if decontaminate else 1)
    kept = int(profile.total * share)
    if profile.usable < LEAST_PAIRS or kept < 8:
        raise DataError(
            f"{profile.usable} usable pairs, of which about {kept} are left after the filter and the held-out "
            f"split, are too "
            f"few for a run: give {LEAST_PAIRS} pairs or more"
        )
    min_count, top_k, classes = _concepts(passing, kept / len(passing))
    processes, nodes = _gang(machine, hardware, kept)
    model, largest = (None, 512) if hardware == "laptop" else _model(kept)
    ridge = model is None and small
    if ridge and held.development >= LEAST_DEVELOPMENT:
        largest = min(largest, held.development)  # of fewer pairs than a batch nothing is measured
    batch = _batch(kept, largest, processes * nodes)
    samples = _samples(kept, batch, hardware, RIDGE_EPOCHS if ridge else EPOCHS)
    width = max(profile.median_size())
    return RunDefaults(
        hardware,
        objects,
        complexity,
        actions,
        (strict, loose, named, english),
        english >= ENGLISH,
        _bad_percent(profile),
        160 if width <= 128 else 256,
        decontaminate,
        kept,
        min_count,
        top_k,
        classes,
        model,
        ridge,
        batch,
        None if hardware == "laptop" else min(256, batch // (processes * nodes)),
        samples,
        min(samples // 8, 2000 * batch) // batch * batch,
        processes,
        nodes,
        _workers(machine, hardware, len(profile.uris)),
        held.development >= batch,
    )


def _concepts(passing: list[ProfiledPair], scale: float) -> tuple[int, int, tuple[int, int]]:
    """The largest minCount with which topK is largest, that topK, and the classes of both kinds.

    Args:
        passing: pairs whose captions pass.
        scale: pairs that are left in the end for each of the profile that passes.
    """
    counts, found = concept_counts(passing), (MIN_COUNTS[-1], 0, (0, 0))
    for min_count in MIN_COUNTS:
        try:
            vocabulary = freeze(counts, Vocabulary(min_fraction=0, min_count=max(1, math.ceil(min_count / scale))))
        except DataError:
            continue
        classes = (len(vocabulary.objects), len(vocabulary.attributes))
        if (top_k := min(MOST_TOP_K, *classes)) > found[1]:
            found = (min_count, top_k, classes)
    return found


def _gang(machine: Machine, hardware: Hardware, kept: int) -> tuple[int, int]:
    """Processes of a node, and nodes; fewer where a process would have fewer than two pairs of a quarter of the
    data.
    """
    if hardware == "laptop":
        return min(2, machine.cores), 1
    processes, nodes = (GPUS_A_POD, PODS) if hardware == "cluster" else (max(1, machine.gpus), 1)
    nodes = nodes if 8 * processes * nodes <= kept else 1
    return max(1, min(processes, kept // 8)), nodes


def _model(kept: int) -> tuple[str, int]:
    return next((model, batch) for pairs, model, batch in LARGE if kept >= pairs)


def _batch(kept: int, largest: int, processes: int) -> int:
    """A multiple of the processes; at least four batches an epoch, so that hard negatives change."""
    share = 2
    while 2 * share * processes <= min(largest, kept // 4):
        share *= 2
    return share * processes


def _samples(kept: int, batch: int, hardware: Hardware, epochs: int) -> int:
    """A multiple of the batch."""
    wanted = min(epochs * kept, CPU_SAMPLES) if hardware == "laptop" else epochs * kept
    return max(1, wanted // batch) * batch


def _workers(machine: Machine, hardware: Hardware, shards: int) -> int:
    if hardware == "cluster":
        return min(64, shards)
    return max(1, min(machine.cores, int(machine.memory_gib // 2)))


def _bad_percent(profile: DatasetProfile) -> float:
    """Twice the share of the profile, and the usual limit at least."""
    share = 100 * sum(profile.bad.values()) / max(1, profile.sampled)
    return 1.0 if share < 0.5 else min(100.0, float(round(2 * share + 1)))


COMMENT_COLUMN: Final = 43


@dataclass(frozen=True)
class RunNames:
    """The run's name, the patterns of its shards, and its folders."""

    run: str
    patterns: list[str]
    output: str
    held_out: str
    words: str | None = None
    """table of word vectors."""


def render_document(
    names: RunNames, profile: DatasetProfile, held: HeldOut, machine: Machine, defaults: RunDefaults
) -> str:
    """The text of the document."""
    parts = [
        _head(names, profile, machine, defaults),
        _data(names, profile),
        _filter(names, profile, held, defaults),
        _label(defaults),
        _train(names, defaults),
        _evaluate(names, held),
        _pods(defaults),
    ]
    return "\n".join(_aligned(line) for part in parts for line in part) + "\n"


def _aligned(line: str) -> str:
    """A line with its comment, if it has one behind a field, in the column of all of them."""
    found = re.fullmatch(r"(\s*\S.*?) {2,}(# .*)", line)
    return line if found is None else f"{found[1]:<{COMMENT_COLUMN}} {found[2]}"


def _head(names: RunNames, profile: DatasetProfile, machine: Machine, defaults: RunDefaults) -> list[str]:
    width, height = profile.median_size()
    bad = ", ".join(f"{count} {reason}" for reason, count in sorted(profile.bad.items())) or "none bad"
    pairs = f"{profile.total:,} pairs" if profile.counted else f"about {profile.total:,} pairs"
    where = {"laptop": "this machine", "gpu-node": "this machine's GPUs", "cluster": "a cluster"}[defaults.hardware]
    return [
        f"# Written by diht init {__version__} for {where}; every number is a first choice that you may change.",
        f"# Data: {pairs} in {counted(len(profile.uris), 'shard')}; {profile.sampled:,} looked at ({bad}). The "
        f"median image has",
        f"# {width} x {height} pixels, the median caption {profile.words():.0f} words; {defaults.shares[3]:.0%} of "
        f"the captions show no sign of",
        "# a language other than English.",
        f"# This machine: {counted(machine.cores, 'CPU core')}, {machine.memory_gib:.0f} GiB of memory, "
        f"{counted(machine.gpus, 'GPU')}.",
        "apiVersion: diht.dev/v1alpha1",
        "kind: DihtRun",
        "metadata:",
        f"  name: {json.dumps(names.run)}",
        "spec:",
        "  seed: 0",
    ]


def _data(names: RunNames, profile: DatasetProfile) -> list[str]:
    key = [f"      captionKey: {profile.caption_key}"] if profile.caption_key else []
    return [
        "  data:",
        "    sources:",
        "    - name: pairs",
        f"      shards: {json.dumps(names.patterns)}",
        *key,
        f"    output: {json.dumps(names.output)}",
    ]


def _filter(names: RunNames, profile: DatasetProfile, held: HeldOut, defaults: RunDefaults) -> list[str]:
    strict, loose, named, _ = defaults.shares
    bad = defaults.max_bad_percent
    lines = [
        "  filter:",
        f"    # {strict:.0%} of the captions pass the paper's rules (minComplexity: 1, minActions: 1), {loose:.0%} "
        f"without minActions.",
        *(
            [
                f"    # {named:.0%} name an object. The paper's rules are made for billions of alt texts: below "
                f"{SMALL_POOL:,} pairs they",
                "    # cost more than they gain.",
                "    minObjects: 1",
            ]
            if defaults.objects
            else []
        ),
        f"    minComplexity: {defaults.complexity}",
        f"    minActions: {defaults.actions}",
        *(
            []
            if defaults.english
            else [
                "    # Most captions are not English: the caption parser reads English only, and finds little in "
                "others.",
                "    language: Any",
            ]
        ),
        "    textSpotting:",
        f"      detectorSize: {defaults.detector_size}",
        f"    # Groups for development and test (pairs with the same image or caption): "
        f"{counted(len(held.pairs), 'group')}, {counted(len(held.excluded), 'pair')}.",
        f"    exclude: {json.dumps(join(names.held_out, EXCLUDE))}",
    ]
    if defaults.decontaminate:
        lines.append("    decontaminate: [held-out]  # drops near copies of held-out images, too")
    else:
        lines.append(
            f"    # decontaminate: [held-out] would drop {held.near:.0%} of the images as near copies of held-out ones."
        )
    if bad != 1.0:
        lines.append(f"    maxBadPercent: {bad:g}  # {sum(profile.bad.values())} of {profile.sampled} samples are bad")
    return [*lines, f"    workers: {defaults.workers}"]


def _label(defaults: RunDefaults) -> list[str]:
    if not defaults.top_k:
        return ["  # No label stage: the captions share too few objects or attributes for concept classes."]
    objects, attributes = defaults.classes
    return [
        "  label:",
        "    vocabulary:",
        f"      minCount: {defaults.min_count}  # about {counted(objects, 'object')} and "
        f"{counted(attributes, 'attribute')} become classes",
        f"    topK: {defaults.top_k}",
        "    teacher:",
        "      model: timm/tf_efficientnet_lite0  # its ImageNet weights come in a Python package",
        *(
            ["      imageSize: 128", "      crop: Whole  # so that the training can use the same features"]
            if defaults.model is None
            else []
        ),
        f"    workers: {defaults.workers}",
        *(
            ["    pods:", '      resources: {cpu: "8", memory: 32Gi, nvidia.com/gpu: 1}']
            if defaults.hardware == "cluster"
            else []
        ),
    ]


def _train(names: RunNames, defaults: RunDefaults) -> list[str]:
    tower = "width: 576, heads: 9" if defaults.ridge else "width: 320, heads: 5"
    locked = [
        "    # An image tower that a Python package brings stays as it is, each image passes it once, and the text "
        "tower learns.",
        "    modelConfig:",
        f"      embed_dim: {512 if defaults.ridge else 256}",
        "      vision_cfg:",
        "        timm_model_name: tf_efficientnet_lite0",
        "        timm_pool: avg",
        "        timm_proj: linear",
        "        timm_proj_bias: true",
        "        image_size: 128",
        f"      text_cfg: {{context_length: 32, vocab_size: 49408, {tower}, layers: 1}}",
        "    initFrom: {uri: timm/tf_efficientnet_lite0}",
        "    lockImageTower: true",
        "    features: Stored",
        *(_small_pool(names, defaults) if defaults.ridge else []),
    ]
    lr = "3.0e-4" if defaults.ridge else "5.0e-4"
    lines = [
        "  train:",
        *(locked if defaults.model is None else [f"    model: {defaults.model}"]),
        f"    samples: {defaults.samples}  # {defaults.samples // defaults.batch} steps, "
        f"{defaults.samples / defaults.kept:.0f} times the pairs that should be left",
        f"    batchSize: {defaults.batch}  # of about {defaults.kept:,} pairs",
    ]
    if defaults.micro_batch is not None:
        lines.append(f"    microBatchSize: {defaults.micro_batch}  # diht estimate RUN --gpu NAME says what fits")
    lines += [
        f"    optimizer: {{lr: {lr}, weightDecay: 0.2}}",
        f"    schedule: {{type: Cosine, warmupSamples: {defaults.warmup}}}",
        "    loss: {maskDuplicateCaptions: true}",
        *_distillation(names, defaults),
        f"    numNodes: {defaults.nodes}",
        f"    processesPerNode: {defaults.processes}",
    ]
    if defaults.hardware == "laptop":
        lines.append("    checkpoint: {everySeconds: 60}")
    if defaults.validates:
        every = max(1, defaults.samples // 10 // defaults.batch) * defaults.batch
        held = json.dumps([join(names.held_out, DEVELOPMENT)])
        lines += ["    validation:", f"      shards: {held}", f"      everySamples: {every}"]
    if defaults.hardware == "cluster":
        lines += ["    pods:", '      resources: {cpu: "64", memory: 256Gi, nvidia.com/gpu: 8}', "      shmSize: 32Gi"]
    return lines


def _small_pool(names: RunNames, defaults: RunDefaults) -> list[str]:
    """How the text tower of a small pool begins, and what keeps it from ending worse."""
    lines = ["    textStart: Ridge  # a regression from words to features: on small pools training alone memorises"]
    if names.words is None:
        lines.append("    # Vectors of words add most: diht init ... --words TABLE (.safetensors, or text as GloVe's)")
    else:
        lines.append(f"    words: {json.dumps(names.words)}  # says which words are near each other")
    if defaults.validates:
        lines.append(
            "    interpolate: [0, 0.25, 0.5, 0.75, 1]  # exports what finds most of validation's pairs; 0: the start"
        )
    return lines


def _distillation(names: RunNames, defaults: RunDefaults) -> list[str]:
    fields = ([] if defaults.top_k else ["mode: Disabled"]) + (
        ["regression: {weight: 100}"] if defaults.ridge and names.words is not None else []
    )
    return [f"    distillation: {{{', '.join(fields)}}}"] if fields else []


def _evaluate(names: RunNames, held: HeldOut) -> list[str]:
    return [
        "  evaluate:",
        "    benchmarks:",
        f"    - name: held-out  # retrieval among {len(held.pairs) - held.development} pairs; add your own benchmarks",
        "      type: Retrieval",
        "      split: HeldOut",
        f"      shards: {json.dumps([join(names.held_out, SHARD)])}",
    ]


def _pods(defaults: RunDefaults) -> list[str]:
    if defaults.hardware != "cluster":
        return []
    return [
        "  pods:",
        f"    image: registry.example.org/diht-recipe:{__version__}  # your registry: make images IMAGE_PREFIX=...",
        '    resources: {cpu: "8", memory: 16Gi}',
    ]
