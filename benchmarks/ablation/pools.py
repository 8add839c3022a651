"""Pools and soft labels of the arms, by the recipe's stages.

Shapes: N pairs of a pool, K stored classes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.ablation import published_labels
from benchmarks.ablation.arms import PoolName, Split
from benchmarks.ablation.junk import junk_samples
from benchmarks.ablation.processes import ROOT
from benchmarks.ablation.published_labels import SoftLabels
from diht_k8s.api.documents import load
from diht_k8s.api.hashing import sha256_of
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.shards.images import decode
from diht_k8s.data.shards.samples import Sample, read_samples
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples
from diht_k8s.runtime.inputs import kept_shards
from diht_k8s.runtime.run_folder import run_layout
from diht_k8s.runtime.stage import run_stage
from diht_k8s.stages.filter import stage as filter_stage
from diht_k8s.stages.label import stage as label_stage
from diht_k8s.stages.label.caption_concepts import read_captions
from diht_k8s.stages.label.soft_labels import HeadLabels, read_labels
from diht_k8s.stages.label.targets import concatenated, encode
from diht_k8s.stages.label.vocabulary import ConceptVocabulary

JUNK_SHARE: Final = 0.3
JUNK_SEED: Final = 0
UNTRAINED: Final = "untrained.safetensors"


@dataclass(frozen=True)
class Pairs:
    """Some pairs, decoded."""

    uids: list[str]
    captions: list[str]
    images: list[Image.Image]

    def chosen(self, rows: Sequence[int] | NDArray[np.int64]) -> Pairs:
        """Some of the pairs."""
        return Pairs(
            [self.uids[row] for row in rows], [self.captions[row] for row in rows], [self.images[row] for row in rows]
        )

    def __add__(self, other: Pairs) -> Pairs:
        return Pairs(self.uids + other.uids, self.captions + other.captions, self.images + other.images)

    def __len__(self) -> int:
        return len(self.uids)


@dataclass(frozen=True)
class Gallery:
    """Pairs that no arm trains on."""

    pairs: Pairs
    classes_N: NDArray[np.int64]
    """class of each image, -1 for none."""


@dataclass(frozen=True)
class Material:
    """All that the arms need."""

    raw: Pairs
    """the pool before the filter."""
    junk: Pairs
    kept: Pairs
    junk_kept: Pairs
    """junk that the filter lets through."""
    labels: dict[str, SoftLabels]
    """by source: `teacher`, `captions`, and `untrained` where an arm needs it."""
    galleries: dict[str, Gallery]
    """what the arms are measured on, the main one first."""
    probes: dict[str, tuple[Pairs, NDArray[np.int64]]]
    """images with their classes, for probes of the image tower."""
    digest: str
    """of what filter and label made: results on other pools are not compared."""

    def pool(self, name: PoolName, rng: np.random.Generator) -> Pairs:
        """The pairs of an arm; random subsets are as large as what the filter keeps."""
        if name == "kept":
            return self.kept
        if name == "junk_kept":
            return self.kept + self.junk_kept
        everything = self.raw if name == "random" else self.raw + self.junk
        size = len(self.kept) + (0 if name == "random" else len(self.junk_kept))
        return everything.chosen(np.sort(rng.permutation(len(everything))[:size]))


def prepare_pools(document: str, work: Path, overrides: Sequence[str] = (), *, untrained: bool = True) -> str:
    """Run the document's filter and label stages, label again with an untrained teacher, and filter junk; the digest of
    the first two.
    """
    digest = _label(document, work, overrides, untrained=untrained)
    junk_run = pool_run(document, work, "junk", overrides)
    _make_junk(pool_run(document, work, "pool", overrides), work)
    run_stage(filter_stage, junk_run, Stage.FILTER)
    return digest


def _label(document: str, work: Path, overrides: Sequence[str], *, untrained: bool) -> str:
    kept_run = pool_run(document, work, "pool", overrides)
    markers = [run_stage(filter_stage, kept_run, Stage.FILTER), run_stage(label_stage, kept_run, Stage.LABEL)]
    if untrained:
        _write_untrained_weights(kept_run, work)
        untrained_run = pool_run(document, work, "untrained", overrides)
        run_stage(filter_stage, untrained_run, Stage.FILTER)
        run_stage(label_stage, untrained_run, Stage.LABEL)
    return sha256_of([marker.output_sha256 for marker in markers if marker is not None])[:12]


def publish_pool(document: str, work: Path, folder: Path) -> None:
    """Run the stages, and write what the filter keeps and the labels of it as `published_labels` has them."""
    prepare_pools(document, work)
    runs = [pool_run(document, work, name) for name in ("pool", "junk")]
    everything, kept = (
        [[sample.uid for sample in found] for found in samples]
        for samples in ([_samples(run.spec.data.sources[0].shards or ()) for run in runs], map(_kept_samples, runs))
    )
    published_labels.write_pool(
        folder, dict(zip(("kept", "junk_kept"), zip(everything, kept, strict=True), strict=True))
    )
    published_labels.write(folder, kept[0], _stage_labels(document, work, (), untrained=True))


def publish_labels(
    document: str, work: Path, folder: Path, pool: Path, overrides: Sequence[str], *, untrained: bool
) -> None:
    """Label by other settings, and write the labels of a published pool, which lies in another folder."""
    _label(document, work, overrides, untrained=untrained)
    run = pool_run(document, work, "pool", overrides)
    _make_junk(run, work)
    raw = [sample.uid for sample in _samples(run.spec.data.sources[0].shards or ())]
    wanted = [raw[row] for row in published_labels.read_pool(pool, "kept", raw)]
    place = {sample.uid: row for row, sample in enumerate(_kept_samples(run))}
    if missing := [uid for uid in wanted if uid not in place]:
        raise SystemExit(f"the filter drops {len(missing)} pairs of the pool in {pool}, first {missing[0]}")
    rows_N = np.array([place[uid] for uid in wanted])
    labels = _stage_labels(document, work, overrides, untrained=untrained)
    published_labels.write(folder, wanted, {source: each.chosen(rows_N) for source, each in labels.items()})
    shutil.copy(pool / published_labels.POOL, folder)


def pool_run(document: str, work: Path, name: str, overrides: Sequence[str] = ()) -> DihtRun:
    """The demo's run as one of the pools: `pool`, `untrained` (another teacher) or `junk` (another input)."""
    overrides = [*overrides, "filter.workers=1", "label.workers=1"]
    if name == "untrained":
        overrides.append(f"label.teacher.weights={work / UNTRAINED}")
    if name == "junk":
        overrides.append("data.sources=" + json.dumps([{"name": "junk", "shards": [str(work / "junk" / "00000.tar")]}]))
    folder = work / "junk" / "run" if name == "junk" else work / "pool"
    return load((ROOT / document).read_text(), name=document, overrides=[*overrides, f"data.output={folder}"])


def prepare(
    document: str,
    work: Path,
    split: Split,
    overrides: Sequence[str] = (),
    *,
    untrained: bool = True,
    published: Path | None = None,
    probes: Sequence[str] = (),
) -> Material:
    """Everything in memory.

    Args:
        document: the run.
        work: folder for what the stages write.
        split: whose retrieval benchmarks are the galleries; `Both` takes all.
        overrides: of the document.
        untrained: whether an arm needs those labels.
        published: folder of a pool and its labels (`published_labels`) that take the place of the stages.
        probes: classification benchmarks whose images are probed.
    """
    digest = prepare_pools(document, work, overrides, untrained=untrained) if published is None else ""
    kept_run, junk_run = (pool_run(document, work, name, overrides) for name in ("pool", "junk"))
    _make_junk(kept_run, work)
    raw, junk = (read_pairs(run.spec.data.sources[0].shards or ())[0] for run in (kept_run, junk_run))
    if published is None:
        kept, junk_kept = (_pairs(_kept_samples(run)) for run in (kept_run, junk_run))
        labels = _stage_labels(document, work, overrides, untrained=untrained)
    else:
        kept = raw.chosen(published_labels.read_pool(published, "kept", raw.uids))
        junk_kept = junk.chosen(published_labels.read_pool(published, "junk_kept", junk.uids))
        labels = published_labels.read(published, kept.uids)
        digest = published_labels.digest(kept.uids, labels)
    assert kept_run.spec.evaluate is not None, "the document evaluates"
    galleries: dict[str, Gallery] = {}
    for benchmark in kept_run.spec.evaluate.benchmarks:
        if benchmark.type == "Retrieval" and split in (benchmark.split, "Both"):
            galleries[benchmark.name] = Gallery(*read_pairs(benchmark.shards))
    return Material(
        raw=raw,
        junk=junk,
        kept=kept,
        junk_kept=junk_kept,
        labels=labels,
        galleries=galleries,
        probes={
            each.name: read_pairs(each.shards) for each in kept_run.spec.evaluate.benchmarks if each.name in probes
        },
        digest=digest,
    )


def _stage_labels(document: str, work: Path, overrides: Sequence[str], *, untrained: bool) -> dict[str, SoftLabels]:
    """What the label stage has made: `teacher`, `untrained` where it is asked for, and `captions`, what it trained its
    heads on.
    """
    run = pool_run(document, work, "pool", overrides)
    storage = Storage()
    layout = run_layout(run, storage)
    vocabulary = ConceptVocabulary.from_document(json.loads(storage.read_bytes(layout.vocabulary)))
    captions = [read_captions(storage, layout, shard) for shard in kept_shards(run.spec, storage, layout)]
    targets = [
        concatenated([encode(getattr(each, head), getattr(vocabulary, head)) for each in captions])
        for head in published_labels.HEADS
    ]
    labels = {"teacher": _labels(run), "captions": published_labels.of_captions(*targets)}
    if untrained:
        labels["untrained"] = _labels(pool_run(document, work, "untrained", overrides))
    return labels


def read_pairs(patterns: Sequence[str]) -> tuple[Pairs, NDArray[np.int64]]:
    """Pairs of some shards, and the class of each, -1 for none."""
    samples = _samples(patterns)
    return _pairs(samples), np.array([sample.meta.get("cls", -1) for sample in samples])


def _make_junk(run: DihtRun, work: Path) -> None:
    """The shard of junk, a share of JUNK_SHARE beside the pool's pairs."""
    shard = work / "junk" / "00000.tar"
    if not shard.exists():
        raw = _samples(run.spec.data.sources[0].shards or ())
        count = round(len(raw) * JUNK_SHARE / (1 - JUNK_SHARE))
        write_samples(Storage(), str(shard), junk_samples(raw, count, JUNK_SEED))


def _write_untrained_weights(run: DihtRun, work: Path) -> None:
    """Random weights of the teacher's network, as its library initialises them."""
    import timm
    from safetensors.torch import save_file

    path = work / UNTRAINED
    if not path.exists():
        assert run.spec.label is not None, "the demo labels"
        torch.manual_seed(0)
        network = timm.create_model(run.spec.label.teacher.model.removeprefix("timm/"))
        save_file({name: value.contiguous() for name, value in network.state_dict().items()}, path)


def _samples(patterns: Sequence[str]) -> list[Sample]:
    storage = Storage()
    return [
        sample
        for uri in storage.expand([str(ROOT / pattern) for pattern in patterns])
        for sample in read_samples(storage, uri)
    ]


def _kept_samples(run: DihtRun) -> list[Sample]:
    storage = Storage()
    shards = kept_shards(run.spec, storage, run_layout(run, storage))
    return [sample for shard in shards for sample in read_samples(storage, shard.uri)]


def _pairs(samples: Sequence[Sample]) -> Pairs:
    return Pairs(
        [sample.uid for sample in samples],
        [sample.caption for sample in samples],
        [decode(sample.image) for sample in samples],
    )


def _labels(run: DihtRun) -> SoftLabels:
    storage = Storage()
    layout = run_layout(run, storage)
    found = [read_labels(storage, layout.labels(shard.name)) for shard in kept_shards(run.spec, storage, layout)]

    def joined(head: str) -> HeadLabels:
        heads: list[HeadLabels] = [getattr(labels, head) for labels in found]
        return HeadLabels(
            np.concatenate([each.ids_NK for each in heads]), np.concatenate([each.probabilities_NK for each in heads])
        )

    vocabulary = ConceptVocabulary.from_document(json.loads(storage.read_bytes(layout.vocabulary)))
    classes = (len(vocabulary.objects), len(vocabulary.attributes))
    return SoftLabels(joined("objects"), joined("attributes"), classes)
