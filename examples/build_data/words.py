"""The demo's table of words: a sentence encoder in, `examples/data/words.safetensors` out.

Run it by `python -m examples.build_data.words --encoder FOLDER` with the Python package `transformers` beside the
others; FOLDER holds the encoder's `model.safetensors`, configuration and tokenizer. The words are those of CLIP's
vocabulary, whatever captions there are. Each is a sentence for the encoder; the mean of its tokens' states, centred, is
reduced to its leading axes and rounded to 8 bits.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.tokenizer import SimpleTokenizer
from safetensors.numpy import save_file

from diht_k8s.models.word_vectors import END
from examples.build_data.__main__ import DATA

TABLE: Final = DATA / "words.safetensors"
ENCODER_SHA256: Final = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of the encoder's weights: all-MiniLM-L6-v2, Apache-2.0."""
NUMBERS: Final = 64
"""Of a word's vector."""
BATCH: Final = 512


def clip_words() -> list[str]:
    """The tokens of CLIP's vocabulary that are words of two letters or more, in its order."""
    tokens = (token.removesuffix(END) for token in SimpleTokenizer().encoder if token.endswith(END))
    return [token for token in tokens if len(token) > 1 and token.isalpha() and token.isascii()]


@torch.no_grad()
def encoded(words: list[str], folder: Path) -> NDArray[np.float32]:
    """The encoder's embeddings of words, not normalised."""
    from transformers import AutoModel, AutoTokenizer  # pyright: ignore[reportMissingImports]  # of this script alone

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModel.from_pretrained(folder, use_kernels=False).eval()
    found = list[torch.Tensor]()
    for first in range(0, len(words), BATCH):
        inputs = tokenizer(words[first : first + BATCH], padding=True, return_tensors="pt")
        states_BTW, mask_BT1 = model(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
        found.append((states_BTW * mask_BT1).sum(dim=1) / mask_BT1.sum(dim=1))
    return torch.cat(found).numpy()


def reduced(vectors_WE: NDArray[np.float32]) -> NDArray[np.int8]:
    """Centred vectors on their leading axes, in 127ths of the largest number."""
    centred = vectors_WE - vectors_WE.mean(axis=0)
    axes = np.linalg.svd(centred.T @ centred)[0][:, :NUMBERS]
    short = centred @ axes
    return np.rint(short * (127 / np.abs(short).max())).astype(np.int8)


def main() -> int:
    """Parse the arguments, write the table; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.build_data.words", description=__doc__)
    parser.add_argument("--encoder", type=Path, required=True, help="folder of the encoder's model.safetensors")
    parser.add_argument("--out", type=Path, default=TABLE, help=f"file to write (default: {TABLE.name} of the data)")
    options = parser.parse_args()
    found = hashlib.sha256((options.encoder / "model.safetensors").read_bytes()).hexdigest()
    if found != ENCODER_SHA256:
        print(f"{options.encoder}/model.safetensors has digest {found}, not {ENCODER_SHA256}", file=sys.stderr)
        return 2
    words = clip_words()
    vectors = reduced(encoded(words, options.encoder))
    save_file({"vectors": vectors, "words": np.frombuffer("\n".join(words).encode(), np.uint8)}, options.out)
    print(f"wrote {len(words):,} words to {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
