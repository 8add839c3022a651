"""The defaults of `diht init`, from a data set's profile and a machine. Pure; all of them are our choice."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

from diht_k8s.api.errors import DataError
from diht_k8s.api.filter import Filter
from diht_k8s.api.label import Vocabulary
from diht_k8s.cli.placement import Machine
from diht_k8s.inspection.dataset_profile import DatasetProfile, ProfiledPair, concept_counts
from diht_k8s.inspection.held_out import HeldOut
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
        len(held.pairs) >= batch,
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
