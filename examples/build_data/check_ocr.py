"""Score text spotting on the painted images: shards in, one JSON line for each input size out.

Run it by `python -m examples.build_data.check_ocr [--images N] [SIDE ...]`. A size of 192 means that the 96-px image
is enlarged to 192 px at its longest side before detection. One thread.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rapidocr import RapidOCR

from examples.build_data.__main__ import DATA

SIDES = (96, 128, 192, 256, 320)
MIN_SCORE = 0.5
MIN_MATCHED = 5


def letters(text: str) -> str:
    """Letters and digits only, lower case."""
    return "".join(character for character in text.lower() if character.isalnum())


def read_pairs(folder: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    """(JSON fields, WebP bytes) of every pair in the folder's shards."""
    for shard in sorted(folder.glob("*.tar.gz")):
        with tarfile.open(shard) as tar:
            fields: dict[str, Any] = {}
            for member in tar:
                stream = tar.extractfile(member)
                assert stream is not None
                if member.name.endswith(".json"):
                    fields = json.loads(stream.read())
                else:
                    yield fields, stream.read()


def engine(side: int) -> RapidOCR:
    """RapidOCR on one thread whose detector sees images of at most `side` px."""
    return RapidOCR(
        params={
            "Det.limit_side_len": side,
            "Det.limit_type": "max",
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            "Global.log_level": "error",
        }
    )


def spotted(reader: RapidOCR, picture: bytes, side: int) -> list[str]:
    """Texts that the reader finds with enough confidence in an image enlarged to `side`."""
    with Image.open(io.BytesIO(picture)) as image:
        scale = side / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        rgb = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    result = reader(np.asarray(rgb)[:, :, ::-1].copy(), use_det=True, use_cls=False, use_rec=True)
    texts, scores = getattr(result, "txts", None) or (), getattr(result, "scores", None) or ()
    return [letters(text) for text, score in zip(texts, scores, strict=True) if score >= MIN_SCORE]


def score(
    pairs: list[tuple[dict[str, Any], bytes]], clean: list[tuple[dict[str, Any], bytes]], side: int
) -> dict[str, Any]:
    """Recall on painted images, and how often a caption's word is found in images without paint."""
    reader, words, found, matched = engine(side), 0, 0, 0
    spotted(reader, pairs[0][1], side)  # loads the models
    start = time.perf_counter()
    for fields, picture in pairs:
        text = "".join(spotted(reader, picture, side))
        hits = [word for word in fields["painted"]["words"] if letters(word) in text]
        words, found = words + len(fields["painted"]["words"]), found + len(hits)
        matched += sum(len(letters(word)) for word in hits) >= MIN_MATCHED
    painted_s = time.perf_counter() - start
    start, false = time.perf_counter(), 0
    for fields, picture in clean:
        caption = letters(fields["caption"])
        false += any(len(text) >= MIN_MATCHED and text in caption for text in spotted(reader, picture, side))
    clean_s = time.perf_counter() - start
    return {
        "side": side,
        "painted_pictures": len(pairs),
        "word_recall": round(found / words, 4),
        "picture_recall_5_letters": round(matched / len(pairs), 4),
        "painted_per_s": round(len(pairs) / painted_s, 1),
        "unpainted_pictures": len(clean),
        "unpainted_with_caption_text": false,
        "unpainted_per_s": round(len(clean) / clean_s, 1),
    }


def main() -> int:
    """Parse the arguments and print one line for each size."""
    parser = argparse.ArgumentParser(prog="python -m examples.build_data.check_ocr", description=__doc__)
    parser.add_argument("sides", nargs="*", type=int, default=SIDES, help="longest side in px after enlarging")
    parser.add_argument("--pictures", type=int, default=200, help="painted and unpainted images to read, each")
    parser.add_argument("--data", type=Path, default=DATA)
    options = parser.parse_args()
    logging.getLogger("RapidOCR").setLevel(logging.ERROR)
    pairs = list(read_pairs(options.data / "train"))
    painted = [pair for pair in pairs if pair[0]["painted"]][: options.pictures]
    clean = [pair for pair in pairs if not pair[0]["painted"]][: options.pictures]
    for side in options.sides:
        sys.stdout.write(json.dumps(score(painted, clean, side)) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
