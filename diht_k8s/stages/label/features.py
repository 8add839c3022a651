"""Teacher features of kept shards: each image passes the teacher once; its features are stored in fp16.

In: the kept pairs. Out: `label/features/SHARD.safetensors` (see `data.feature_files`), so that the stage resumes shard
by shard. The heads are trained on these features, and the labels are predicted from them. Of a CLIP-type teacher the
embeddings of images and captions are stored, too.

Shapes: N images of a shard, B of a batch, D features.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final, TypeVar

import torch
from torch import Tensor

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.data.feature_files import FeatureFile, hash64, read_features, write_tensors
from diht_k8s.data.shards.images import BadImageError, Decoder, decode
from diht_k8s.data.shards.pairs import read_pairs
from diht_k8s.data.shards.samples import Sample
from diht_k8s.data.shards.sources import Shard
from diht_k8s.data.shards.storage import Storage
from diht_k8s.models.features import encode_texts
from diht_k8s.models.loading import LoadedModel
from diht_k8s.runtime.bad_shards import Damage, lost_sample
from diht_k8s.stages.label.caption_concepts import read_captions
from diht_k8s.stages.label.job import LabelJob
from diht_k8s.stages.label.teacher import LazyTeacher, TeacherNetwork

T = TypeVar("T")
MAX_DECODERS: Final = 16
SHOWN_UIDS: Final = 5


@dataclass(frozen=True)
class TeacherFeatures:
    """The teacher's view of one shard, rows in its order."""

    features_ND: Tensor
    """fp16; zeros where `usable_N` is False."""
    uid_hash_N: Tensor
    """int64: says which pair a row belongs to."""
    group_hash_N: Tensor
    """int64, equal for pairs of one group (near-duplicates), without groups for those of one image: folds are made of
    it.
    """
    usable_N: Tensor
    """bool: False where the image cannot be decoded."""
    bad: Mapping[str, int]
    """unusable images by reason."""
    damage: Damage | None = None
    """of the shard, where it was damaged after the filter."""
    captions: tuple[str, ...] = ()
    """of all pairs, where they were read with the images: no file of features has them."""


def group_of(sample: Sample) -> str:
    """What must stay on one side of a split: the .json's `group`, else all pairs of the same image."""
    group = sample.meta.get("group")
    return f"group:{group}" if isinstance(group, str | int) else hashlib.sha256(sample.image).hexdigest()


def extract_shard(
    job: LabelJob, teacher: LazyTeacher, shard: Shard, on_images: Callable[[int], None]
) -> TeacherFeatures:
    """Features of a kept shard, with a row for each pair that the filter kept."""
    found = extract(teacher.loaded, kept_samples(job, shard), shard.uri, on_images)
    return replace(found, damage=job.bad_shards.found.get(shard.name))


def kept_samples(job: LabelJob, shard: Shard) -> Iterator[Sample]:
    """The pairs of a kept shard; placeholders for those behind its damage, so that rows of all files match."""
    samples, count = read_pairs(job.context.storage, shard, check=job.context.stop.raise_if_requested), 0
    for sample in job.bad_shards.salvage(shard.name, samples):
        yield sample
        count += 1
    if shard.name in job.bad_shards.found:
        uids = read_captions(job.context.storage, job.context.layout, shard).uids
        yield from map(lost_sample, uids[count:])


def extract(
    teacher: TeacherNetwork,
    samples: Iterable[Sample],
    where: str,
    on_images: Callable[[int], None],
    decoder: Decoder = decode,
) -> TeacherFeatures:
    """Pass the images of one shard through the teacher.

    Args:
        teacher: the frozen encoder.
        samples: the shard's pairs in order.
        where: the shard's URI, for messages.
        on_images: called after each batch with the number of images done.
        decoder: from a file's bytes to an image.

    Raises:
        DataError: the teacher gives NaN or infinite features; the first images are named.
    """
    rows = [torch.zeros(0, teacher.dimension, dtype=torch.float16)]  # of a shard without a readable pair, all
    uids: list[str] = []
    captions: list[str] = []
    groups: list[int] = []
    problems: list[str | None] = []
    for batch, features_BD in _encoded_batches(teacher, samples, decoder):
        rows.append(features_BD.half())
        uids += [sample.uid for sample, _, _ in batch]
        captions += [sample.caption for sample, _, _ in batch]
        groups += [hash64(group_of(sample)) for sample, _, _ in batch]
        problems += [problem for _, _, problem in batch]
        on_images(len(uids))
    features_ND = torch.cat(rows)
    _check_finite(features_ND, uids, where)
    return TeacherFeatures(
        features_ND,
        torch.tensor([hash64(uid) for uid in uids], dtype=torch.int64),
        torch.tensor(groups, dtype=torch.int64),
        torch.tensor([problem is None for problem in problems], dtype=torch.bool),
        Counter(problem for problem in problems if problem is not None),
        captions=tuple(captions),
    )


Decoded = tuple[Sample, Tensor | None, str | None]
"""A pair, its preprocessed image and, instead of that, why the image is unusable."""


def _encoded_batches(
    teacher: TeacherNetwork, samples: Iterable[Sample], decoder: Decoder
) -> Iterator[tuple[list[Decoded], Tensor]]:
    """Batches of decoded images with their features [B, D] (zeros for unusable images), in order."""

    def prepare(sample: Sample) -> Decoded:
        try:
            if sample.problem is not None:
                return sample, None, sample.problem
            return sample, teacher.preprocess(decoder(sample.image)), None
        except BadImageError as error:
            return sample, None, error.reason

    def encode(batch: list[Decoded]) -> tuple[list[Decoded], Tensor]:
        features_BD = torch.zeros(len(batch), teacher.dimension)
        usable = [number for number, (_, image, _) in enumerate(batch) if image is not None]
        if usable:
            images_B3HW = torch.stack([image for _, image, _ in batch if image is not None])
            features_BD[usable] = teacher.features(images_B3HW)
        return batch, features_BD

    source, size, threads = iter(samples), teacher.batch_size, min(MAX_DECODERS, teacher.threads)
    batches = iter(lambda: list(islice(source, size)), [])
    if teacher.device.type == "cuda":  # the threads decode the next batch while the GPU encodes this one
        with ThreadPoolExecutor(threads) as pool:
            decoding = ([pool.submit(prepare, sample) for sample in batch] for batch in batches)
            for futures in _ahead(decoding, 1):
                yield encode([future.result() for future in futures])
        return
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        encoding = (pool.submit(lambda batch: encode([prepare(sample) for sample in batch]), each) for each in batches)
        for future in _ahead(encoding, 2 * threads):
            yield future.result()


def _ahead(items: Iterator[T], count: int) -> Iterator[T]:
    """The same items, `count` of them drawn in advance."""
    drawn = deque(islice(items, count))
    for item in items:
        drawn.append(item)
        yield drawn.popleft()
    yield from drawn


def _check_finite(features_ND: Tensor, uids: list[str], where: str) -> None:
    wrong = (~torch.isfinite(features_ND).all(dim=1)).nonzero().flatten().tolist()
    if wrong:
        named = ", ".join(uids[number] for number in wrong[:SHOWN_UIDS]) + (", ..." if len(wrong) > SHOWN_UIDS else "")
        raise DataError(
            f"the teacher's features of {len(wrong)} of {len(uids)} images in {where} are not finite ({named}): "
            "check label.teacher.weights"
        )


def write_features(storage: Storage, uri: str, found: TeacherFeatures, header: Mapping[str, Any]) -> None:
    """Write the features of one kept shard."""
    tensors = {
        "features": found.features_ND,
        "uid_hash": found.uid_hash_N,
        "group_hash": found.group_hash_N,
        "usable": found.usable_N,
    }
    write_tensors(storage, uri, tensors, {**header, **found_header(found)})


def found_header(found: TeacherFeatures) -> dict[str, Any]:
    """What the header of a shard's features or labels says about its images."""
    damage = {} if found.damage is None else {"damage": found.damage.to_json()}
    return {"bad": dict(sorted(found.bad.items())), **damage}


def read_teacher_features(storage: Storage, uri: str, config_sha256: str) -> TeacherFeatures:
    """Read what `write_features` wrote.

    Raises:
        DataError: the file is damaged or was made under another configuration.
    """
    tensors, header = read_features(storage, FeatureFile(uri, config_sha256))
    damage = Damage(**header["damage"]) if "damage" in header else None
    return TeacherFeatures(
        tensors["features"], tensors["uid_hash"], tensors["group_hash"], tensors["usable"], header["bad"], damage
    )


CAPTIONS: Final = 1024
"""Captions that are encoded before progress and claims are told."""


def caption_embeddings(loaded: LoadedModel, captions: Sequence[str], on_captions: Callable[[], object]) -> Tensor:
    """Normalised embeddings of captions by a CLIP-type teacher, [N, D] fp32; `on_captions` is called now and then."""
    parts: list[Tensor] = []
    for start in range(0, len(captions), CAPTIONS):
        on_captions()
        parts.append(torch.from_numpy(encode_texts(loaded, captions[start : start + CAPTIONS])))
    return torch.cat(parts)


def write_embeddings(
    storage: Storage, uri: str, found: TeacherFeatures, text_ND: Tensor, header: Mapping[str, Any]
) -> None:
    """Write a CLIP-type teacher's embeddings of the pairs of one kept shard: `label/embeddings/SHARD.safetensors`.

    A row of `features`, fp16, is the normalised embedding of the image followed by that of the caption, zeros where the
    image cannot be decoded. Trainings read rows of it.

    Args:
        storage: to write to.
        uri: see `Layout.embeddings`.
        found: the images.
        text_ND: normalised embeddings of the captions.
        header: config_sha256 and what else each file carries.

    Raises:
        UserError: the towers give embeddings of different widths.
    """
    image_ND = found.features_ND.float()
    if image_ND.shape != text_ND.shape:
        raise UserError(
            f"label.teacher.textEmbeddings: the teacher's image tower gives {image_ND.shape[1]} numbers, its text "
            f"tower "
            f"{text_ND.shape[1]}: give a model whose towers share a space"
        )
    length_N1 = image_ND.norm(dim=1, keepdim=True)
    unit_ND = image_ND / torch.where(length_N1 > 0, length_N1, 1)
    features = (torch.cat([unit_ND, text_ND], dim=1) * found.usable_N[:, None]).half()
    write_tensors(storage, uri, {"features": features, "uid_hash": found.uid_hash_N, "usable": found.usable_N}, header)
