"""Vectors of words from a table file: our own tables in safetensors, or the text formats of GloVe and fastText.

In: a file and the vocabulary of CLIP's tokenizer. Out: a vector for each token that is a whole word of the table. A
word that the tokenizer cuts into several tokens has none.

Our own table holds `vectors`, [words, E] of any type, and `words`, the bytes of all words joined by line feeds
(`examples/build_data/words.py` writes one).
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.data.shards.storage import Storage

END: Final = "</w>"
"""Ends a token of CLIP's vocabulary that ends a word."""

# V tokens of the vocabulary, E numbers of a vector.


def token_vectors(storage: Storage, uri: str, vocabulary: Mapping[str, int]) -> NDArray[np.float32]:
    """Vectors of all tokens, VxE, of mean length 1; zeros where the table has no such word.

    Args:
        storage: reads the file.
        uri: `.safetensors`, or text of one word a line with its numbers, plain or `.gz`.
        vocabulary: token -> number.

    Raises:
        DataError: the file is damaged.
        UserError: it has no word of the vocabulary.
    """
    content = storage.read_bytes(uri)
    rows = _of_safetensors(uri, content) if uri.endswith(".safetensors") else _of_text(uri, content, vocabulary)
    numbers, vectors = list[int](), list[NDArray[np.float32]]()
    for word, vector_E in rows:
        number = vocabulary.get(word.lower() + END)
        if number is not None:
            numbers.append(number)
            vectors.append(vector_E)
    if not numbers:
        raise UserError(
            f"{uri} holds no word that CLIP's tokenizer keeps whole: give a table of English words, one a line with "
            "its numbers, or one in safetensors"
        )
    found_WE = np.stack(vectors)
    if not np.isfinite(found_WE).all():
        raise DataError(f"{uri} holds numbers that are not finite: make the table again")
    found_VE = np.zeros((len(vocabulary), found_WE.shape[1]), np.float32)
    found_VE[numbers[::-1]] = found_WE[::-1]  # of words that differ in case alone the first
    length = np.sqrt((found_WE**2).sum(axis=1).mean())
    return found_VE / max(float(length), 1e-12)


def _of_safetensors(uri: str, content: bytes) -> Iterator[tuple[str, NDArray[np.float32]]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(content)
        words, vectors_WE = tensors["words"].tobytes().decode().split("\n"), tensors["vectors"].astype(np.float32)
    except (SafetensorError, KeyError, ValueError) as error:
        raise DataError(
            f"{uri} is no table of words ({error}): it must hold `vectors` and the bytes of `words`"
        ) from error
    if vectors_WE.ndim != 2 or len(words) != len(vectors_WE):
        raise DataError(f"{uri} holds {len(words)} words and vectors of shape {vectors_WE.shape}: make the table again")
    return zip(words, vectors_WE, strict=True)


def _of_text(uri: str, content: bytes, vocabulary: Mapping[str, int]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    try:
        text = gzip.decompress(content) if uri.endswith(".gz") else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{uri} is damaged: {error}") from error
    width: int | None = None
    for number, line in enumerate(io.TextIOWrapper(io.BytesIO(text), encoding="utf-8", errors="replace"), 1):
        word, *numbers = line.split()
        if number == 1 and len(numbers) == 1:  # fastText's first line: words and numbers of each
            continue
        width = len(numbers) if width is None else width
        if len(numbers) != width and word.lower() + END in vocabulary:
            raise DataError(f"{uri}, line {number}: {len(numbers)} numbers, the lines before have {width}")
        if word.lower() + END not in vocabulary:
            continue
        try:
            yield word, np.array(numbers, np.float32)
        except ValueError as error:
            raise DataError(f"{uri}, line {number}: {error}") from error
