"""The run document of `diht init`: YAML with a comment on each default. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final

from diht_k8s import __version__
from diht_k8s.api.layout import join
from diht_k8s.cli.onboarding.defaults import SMALL_POOL, RunDefaults
from diht_k8s.cli.placement import Machine
from diht_k8s.inspection.dataset_profile import DatasetProfile
from diht_k8s.inspection.held_out import EXCLUDE, SHARD, HeldOut

COMMENT_COLUMN: Final = 43


@dataclass(frozen=True)
class RunNames:
    """The run's name, the patterns of its shards, and its folders."""

    run: str
    patterns: list[str]
    output: str
    held_out: str


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


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _head(names: RunNames, profile: DatasetProfile, machine: Machine, defaults: RunDefaults) -> list[str]:
    width, height = profile.median_size()
    bad = ", ".join(f"{count} {reason}" for reason, count in sorted(profile.bad.items())) or "none bad"
    pairs = f"{profile.total:,} pairs" if profile.counted else f"about {profile.total:,} pairs"
    where = {"laptop": "this machine", "gpu-node": "this machine's GPUs", "cluster": "a cluster"}[defaults.hardware]
    return [
        f"# Written by diht init {__version__} for {where}; every number is a first choice that you may change.",
        f"# Data: {pairs} in {_counted(len(profile.uris), 'shard')}; {profile.sampled:,} looked at ({bad}). The "
        f"median image has",
        f"# {width} x {height} pixels, the median caption {profile.words():.0f} words; {defaults.shares[3]:.0%} of "
        f"the captions show no sign of",
        "# a language other than English.",
        f"# This machine: {_counted(machine.cores, 'CPU core')}, {machine.memory_gib:.0f} GiB of memory, "
        f"{_counted(machine.gpus, 'GPU')}.",
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
        f"    # Held-out groups (pairs with the same image or caption): {_counted(len(held.pairs), 'group')}, "
        f"{_counted(len(held.excluded), 'pair')}.",
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
        f"      minCount: {defaults.min_count}  # about {_counted(objects, 'object')} and "
        f"{_counted(attributes, 'attribute')} become classes",
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
    locked = [
        "    # An image tower that a Python package brings stays as it is, each image passes it once, and the text "
        "tower learns.",
        "    modelConfig:",
        "      embed_dim: 256",
        "      vision_cfg:",
        "        timm_model_name: tf_efficientnet_lite0",
        "        timm_pool: avg",
        "        timm_proj: linear",
        "        timm_proj_bias: true",
        "        image_size: 128",
        "      text_cfg: {context_length: 32, vocab_size: 49408, width: 320, heads: 5, layers: 1}",
        "    initFrom: {uri: timm/tf_efficientnet_lite0}",
        "    lockImageTower: true",
        "    features: Stored",
        *(["    textStart: Ridge  # a regression from words to features: for small pools"] if defaults.ridge else []),
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
        *([] if defaults.top_k else ["    distillation: {mode: Disabled}"]),
        f"    numNodes: {defaults.nodes}",
        f"    processesPerNode: {defaults.processes}",
    ]
    if defaults.hardware == "laptop":
        lines.append("    checkpoint: {everySeconds: 60}")
    if defaults.validates:
        every = max(1, defaults.samples // 10 // defaults.batch) * defaults.batch
        held = json.dumps([join(names.held_out, SHARD)])
        lines += ["    validation:", f"      shards: {held}", f"      everySamples: {every}"]
    if defaults.hardware == "cluster":
        lines += ["    pods:", '      resources: {cpu: "64", memory: 256Gi, nvidia.com/gpu: 8}', "      shmSize: 32Gi"]
    return lines


def _evaluate(names: RunNames, held: HeldOut) -> list[str]:
    return [
        "  evaluate:",
        "    benchmarks:",
        f"    - name: held-out  # retrieval among {len(held.pairs)} pairs; add your own benchmarks",
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
