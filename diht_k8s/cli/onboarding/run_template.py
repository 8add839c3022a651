"""The run document that `diht init` writes: YAML with a comment on each choice. Pure: facts in, text out."""

from __future__ import annotations

import json
from dataclasses import dataclass

from diht_k8s import __version__
from diht_k8s.api.layout import join
from diht_k8s.cli.onboarding.defaults import Machine, RunDefaults
from diht_k8s.recipe.inspection.dataset_profile import DatasetProfile
from diht_k8s.recipe.inspection.held_out import EXCLUDE, SHARD, HeldOut


@dataclass(frozen=True)
class RunNames:
    """What the document is called and where things lie."""

    run: str
    patterns: list[str]
    output: str
    held_out: str


def render_document(
    names: RunNames, look: DatasetProfile, held: HeldOut, machine: Machine, choices: RunDefaults
) -> str:
    """The text of the document."""
    parts = [
        _head(names, look, machine, choices),
        _data(names, look),
        _filter(names, look, held, choices),
        _label(choices),
        _train(names, choices),
        _evaluate(names, held),
        _pods(choices),
    ]
    return "\n".join(line for part in parts for line in part) + "\n"


def _head(names: RunNames, look: DatasetProfile, machine: Machine, choices: RunDefaults) -> list[str]:
    width, height = look.median_size()
    bad = ", ".join(f"{count} {reason}" for reason, count in sorted(look.bad.items())) or "none bad"
    pairs = f"{look.total:,} pairs" if look.counted else f"about {look.total:,} pairs"
    where = {"laptop": "this machine", "gpu-node": "this machine's GPUs", "cluster": "a cluster"}[choices.place]
    return [
        f"# Written by diht init {__version__} for {where}; every number is a first choice that you may change.",
        f"# Data: {pairs} in {len(look.uris):,} shards; {look.looked_at:,} looked at ({bad}). The median image has",
        f"# {width} x {height} pixels, the median caption {look.words():.0f} words; {choices.shares[2]:.0%} of the captions show no sign of",
        "# a language other than English.",
        f"# This machine: {machine.cores} CPU cores, {machine.memory_gib:.0f} GiB of memory, {machine.gpus} GPUs.",
        "apiVersion: diht.dev/v1alpha1",
        "kind: DihtRun",
        "metadata:",
        f"  name: {json.dumps(names.run)}",
        "spec:",
        "  seed: 0",
    ]


def _data(names: RunNames, look: DatasetProfile) -> list[str]:
    key = [f"      captionKey: {look.caption_key}"] if look.caption_key else []
    return [
        "  data:",
        "    sources:",
        "    - name: pairs",
        f"      shards: {json.dumps(names.patterns)}",
        *key,
        f"    output: {json.dumps(names.output)}",
    ]


def _filter(names: RunNames, look: DatasetProfile, held: HeldOut, choices: RunDefaults) -> list[str]:
    strict, loose, _ = choices.shares
    bad = choices.max_bad_percent
    lines = [
        "  filter:",
        f"    # {strict:.0%} of the captions pass the paper's rules (minComplexity: 1, minActions: 1), {loose:.0%} without minActions.",
        f"    minComplexity: {choices.complexity}",
        f"    minActions: {choices.actions}",
        *([] if choices.english else [
            "    # Most captions are not English: the caption parser reads English only, and finds little in others.",
            "    language: Any",
        ]),
        "    textSpotting:",
        f"      detectorSize: {choices.detector_size}",
        f"    # Held-out groups (pairs with the same image or caption): {len(held.pairs)} groups, {len(held.excluded)} pairs.",
        f"    exclude: {json.dumps(join(names.held_out, EXCLUDE))}",
    ]  # fmt: skip
    if choices.decontaminate:
        lines.append("    decontaminate: [held-out]               # drops near copies of held-out images, too")
    else:
        lines.append(
            f"    # decontaminate: [held-out] would drop {held.near:.0%} of the images as near copies of held-out ones."
        )
    if bad != 1.0:
        lines.append(
            f"    maxBadPercent: {bad:g}                       # {sum(look.bad.values())} of {look.looked_at} samples are bad"
        )
    return [*lines, f"    workers: {choices.workers}"]


def _label(choices: RunDefaults) -> list[str]:
    if not choices.top_k:
        return ["  # No label stage: the captions share too few objects or attributes for concept classes."]
    objects, attributes = choices.classes
    return [
        "  label:",
        "    vocabulary:",
        f"      minCount: {choices.min_count}                           # about {objects} objects and {attributes} attributes become classes",
        f"    topK: {choices.top_k}",
        "    teacher:",
        "      model: timm/tf_efficientnet_lite0     # its ImageNet weights come in a Python package",
        *(["      imageSize: 128"] if choices.place == "laptop" else []),
        f"    workers: {choices.workers}",
        *(["    pods:", '      resources: {cpu: "8", memory: 32Gi, nvidia.com/gpu: 1}'] if choices.place == "cluster" else []),
    ]  # fmt: skip


def _train(names: RunNames, choices: RunDefaults) -> list[str]:
    small = [
        "    modelConfig:                            # small enough for CPUs",
        "      embed_dim: 128",
        "      vision_cfg: {image_size: 64, layers: [1, 1, 1, 1], width: 16}",
        "      text_cfg: {context_length: 32, vocab_size: 49408, width: 128, heads: 4, layers: 2}",
    ]
    lr = "1.5e-3" if choices.model is None else "5.0e-4"
    lines = [
        "  train:",
        *(small if choices.model is None else [f"    model: {choices.model}"]),
        f"    samples: {choices.samples}                           # {choices.samples // choices.batch} steps, {choices.samples / choices.kept:.0f} times the pairs that should be left",
        f"    batchSize: {choices.batch}                           # of about {choices.kept:,} pairs",
    ]
    if choices.micro_batch is not None:
        lines.append(
            f"    microBatchSize: {choices.micro_batch}                     # diht estimate RUN --gpu NAME says what fits"
        )
    lines += [
        f"    optimizer: {{lr: {lr}, weightDecay: 0.2}}",
        f"    schedule: {{type: Cosine, warmupSamples: {choices.warmup}}}",
        "    loss: {maskDuplicateCaptions: true}",
        *([] if choices.top_k else ["    distillation: {mode: Disabled}"]),
        f"    numNodes: {choices.nodes}",
        f"    processesPerNode: {choices.processes}",
    ]
    if choices.place == "laptop":
        lines.append("    checkpoint: {everySeconds: 20}")
    if choices.validates:
        every = max(1, choices.samples // 10 // choices.batch) * choices.batch
        held = json.dumps([join(names.held_out, SHARD)])
        lines += ["    validation:", f"      shards: {held}", f"      everySamples: {every}"]
    if choices.place == "cluster":
        lines += ["    pods:", '      resources: {cpu: "64", memory: 256Gi, nvidia.com/gpu: 8}', "      shmSize: 32Gi"]
    return lines


def _evaluate(names: RunNames, held: HeldOut) -> list[str]:
    return [
        "  evaluate:",
        "    benchmarks:",
        f"    - name: held-out                        # retrieval among {len(held.pairs)} pairs; add your own benchmarks",
        "      type: Retrieval",
        "      split: HeldOut",
        f"      shards: {json.dumps([join(names.held_out, SHARD)])}",
    ]


def _pods(choices: RunDefaults) -> list[str]:
    if choices.place != "cluster":
        return []
    return [
        "  pods:",
        f"    image: registry.example.org/diht-recipe:{__version__}   # your registry: make images IMAGE_PREFIX=...",
        '    resources: {cpu: "8", memory: 16Gi}',
    ]
