"""Embeddings of a CLIP-type teacher: of each pair's image and caption, one safetensors file a kept shard.

In: the teacher's features and the captions. Out: `label/embeddings/SHARD.safetensors`, rows in the order of the kept pairs:
`features`, fp16, the normalised embedding of the image followed by that of the caption (zeros where the image cannot be decoded),
`uid_hash` and `usable`. Trainings read rows of it (`train.features.rows`).

Shapes: N pairs of a shard, E embedding width.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.api.label import Teacher
from diht_k8s.data.shards.safetensors_metadata import metadata_of
from diht_k8s.data.shards.storage import Storage
from diht_k8s.models.features import encode_texts
from diht_k8s.models.loading import LoadedModel, load_model

CAPTIONS: Final = 1024
"""Captions that are encoded before progress and claims are told."""


def load_text_tower(teacher: Teacher, storage: Storage, uri: str) -> LoadedModel:
    """The teacher's text tower and tokenizer, on the GPU if there is one.

    Args:
        teacher: `open_clip/NAME`.
        storage: reads the weights.
        uri: weights of both towers.

    Raises:
        UserError: the file holds more than tensors.
        DataError: the weights do not fit, as those of an image tower alone (the first key is named).
    """
    loaded = load_model(uri, storage, architecture=teacher.model.removeprefix("open_clip/"))
    del loaded.model.visual  # the other half of the memory
    return loaded


def caption_embeddings(loaded: LoadedModel, captions: Sequence[str], on_captions: Callable[[], object]) -> NDArray[Any]:
    """Normalised embeddings of captions, [N, E] fp32; `on_captions` is called now and then."""
    parts: list[NDArray[np.float32]] = []
    for start in range(0, len(captions), CAPTIONS):
        on_captions()
        parts.append(encode_texts(loaded, captions[start : start + CAPTIONS]))
    return np.concatenate(parts)


def write_embeddings(
    storage: Storage,
    uri: str,
    image_NE: NDArray[Any],
    text_NE: NDArray[Any],
    rows: Mapping[str, NDArray[Any]],
    header: Mapping[str, Any],
) -> None:
    """Write the embeddings of one kept shard.

    Args:
        storage: to write to.
        uri: `label/embeddings/SHARD.safetensors` (see `Layout.embeddings`).
        image_NE: features of the images before normalisation; zeros where an image cannot be decoded.
        text_NE: normalised embeddings of the captions.
        rows: `uid_hash` (int64) and `usable` (bool) of each pair.
        header: config_sha256 and what else each file carries.

    Raises:
        UserError: the towers give embeddings of different widths.
    """
    if image_NE.shape != text_NE.shape:
        raise UserError(
            f"label.teacher.textEmbeddings: the teacher's image tower gives {image_NE.shape[1]} numbers, its text tower "
            f"{text_NE.shape[1]}: give a model whose towers share a space"
        )
    image_NE = image_NE.astype(np.float32)
    length_N1 = np.linalg.norm(image_NE, axis=1, keepdims=True)
    unit_NE = image_NE / np.where(length_N1 > 0, length_N1, 1)
    features = np.concatenate([unit_NE, text_NE], axis=1) * rows["usable"][:, None]
    tensors = {"features": features.astype(np.float16), **rows}
    storage.write_bytes(uri, save(tensors, metadata={"diht": json.dumps(dict(header), sort_keys=True)}))


def remove_rows(storage: Storage, uri: str, places: Collection[int], kept: int) -> None:
    """Remove some pairs from a shard's embeddings, if that has not been done.

    Args:
        storage: of the file.
        uri: of the embeddings.
        places: of the pairs among the kept ones.
        kept: pairs of the shard before.

    Raises:
        DataError: the file is damaged, or holds other pairs.
    """
    content = storage.read_bytes(uri)
    try:
        tensors, header = load(content), metadata_of(content)
    except (SafetensorError, KeyError, ValueError) as error:
        raise DataError(f"{uri} is damaged ({error}): remove it and run the stage label again") from error
    found = len(tensors["usable"])
    if found == kept:
        left = [place for place in range(kept) if place not in places]
        storage.write_bytes(uri, save({name: rows[left] for name, rows in tensors.items()}, metadata=header))
    elif found != kept - len(places):
        raise DataError(f"{uri} has {found} rows for {kept} kept pairs: run the stage label again")
