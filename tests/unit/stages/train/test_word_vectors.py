"""Tables of words: our own and those of GloVe and fastText give vectors to the tokens that are whole words."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.data.shards.storage import Storage
from diht_k8s.models.word_vectors import token_vectors

VOCABULARY = {"cat": 0, "cat</w>": 1, "dog</w>": 2, "red</w>": 3, "<end>": 4}
LINES = "cat 3 0 0\nwheelbarrows 1 1 1\nDog 0 4 0\ndog 9 9 9\n"
EXPECTED = np.array([[0, 0, 0], [3, 0, 0], [0, 4, 0], [0, 0, 0], [0, 0, 0]])


def read(path: Path) -> NDArray[np.float32]:
    return token_vectors(Storage(), str(path), VOCABULARY)


def own_table(path: Path, words: str, vectors: NDArray[np.generic]) -> Path:
    save_file({"words": np.frombuffer(words.encode(), np.uint8), "vectors": vectors}, path)
    return path


@pytest.mark.parametrize("name", ["glove.txt", "glove.txt.gz", "fasttext.vec", "own.safetensors"])
def test_table_when_in_any_format_then_whole_words_have_its_vectors_and_other_tokens_none(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    if name.startswith("own"):
        words = "\n".join(line.split()[0] for line in LINES.splitlines())
        own_table(path, words, np.array([[3, 0, 0], [1, 1, 1], [0, 4, 0], [9, 9, 9]], np.int8))
    else:
        text = f"4 3\n{LINES}" if name.startswith("fasttext") else LINES
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    found = read(path)
    np.testing.assert_allclose(found / found[1, 0] * 3, EXPECTED, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("cut.txt", b"cat 1 2 3\ndog 1 2\n", "line 2: 2 numbers, the lines before have 3"),
        ("letters.txt", b"cat 1 x 3\n", "line 1: could not convert"),
        ("infinite.txt", b"cat 1 nan 3\n", "not finite"),
        ("damaged.gz", b"\x1f\x8b0", "is damaged"),
        ("damaged.safetensors", b"12345678{", "is no table of words"),
    ],
)
def test_table_when_damaged_then_the_place_is_named(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=problem) as raised:
        read(tmp_path / name)
    assert name in str(raised.value)


def test_table_when_words_and_vectors_differ_in_number_then_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds 2 words and vectors of shape"):
        read(own_table(tmp_path / "odd.safetensors", "cat\ndog", np.ones((3, 2), np.float32)))


def test_table_when_of_another_language_then_refused_with_what_to_give(tmp_path: Path) -> None:
    (tmp_path / "table.txt").write_text("katze 1 2\n")
    with pytest.raises(UserError, match="holds no word that CLIP's tokenizer keeps whole: give a table of English"):
        read(tmp_path / "table.txt")
