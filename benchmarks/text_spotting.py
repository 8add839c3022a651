"""Text spotting: recall, false hits and speed on images with painted captions, beside RapidOCR's defaults.

Half of the images (320 px) show words of their caption (two fonts, turned by up to 15 degrees), a quarter no text, a
quarter words of another caption. CPU time of one thread, without loading and compiling (some 5 s).

On an EPYC with bfloat16, `--compared 200`. RapidOCR finds all captions; of further ones of 7 to 9 px 83 %, we 70 %.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks._arguments import make_parser
from diht_k8s.api.filter import Filter
from diht_k8s.data.shards.images import decode
from diht_k8s.data.shards.samples import Sample, read_samples
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.filter import TextSpotter
from diht_k8s.stages.filter.rules import match_rule
from diht_k8s.stages.filter.text_spotting.matching import SpottedText, normalised_words
from diht_k8s.stages.filter.text_spotting.spotter import SpottingRequest

DATA = Path(__file__).parent.parent / "examples" / "data" / "train"
FONTS = Path("/usr/share/fonts/truetype")
SIDE = 320
"""Pixels of the images: a typical stored size of web images."""
MAX_ANGLE = 15
TURN = 20
"""Images per turn of one side, so each side has its own weights in the CPU caches, as if it ran alone.
"""
RULE = match_rule(Filter())
Kind = Literal["caption", "none", "other"]
COLOURS = ("black", "white", "navy", "darkred", "yellow", "darkgreen", "orange", "purple")


@dataclass(frozen=True)
class PaintedImage:
    """An image with the text painted into it."""

    image: Image.Image
    caption: str
    kind: Kind
    shown: str = ""


def words_of(caption: str, rng: Random) -> str:
    """One to three neighbouring words, at least one of them long enough for the rule; "" if there are none."""
    words = [word for word in caption.split() if word.isascii()]
    runs = [words[i : i + n] for n in (1, 2, 3) for i in range(len(words) - n + 1)]
    fitting = [run for run in runs if any(len(unit) >= RULE.min_characters for unit in normalised_words(" ".join(run)))]
    return " ".join(rng.choice(fitting)) if fitting else ""


def backgrounds(rng: Random) -> list[Image.Image]:
    """Crops of photographs."""
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    crops = []
    for _ in range(200):
        photograph = rng.choice(photographs)
        side = rng.randint(160, min(photograph.size))
        x, y = rng.randint(0, photograph.width - side), rng.randint(0, photograph.height - side)
        crops.append(photograph.crop((x, y, x + side, y + side)).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    return crops


def font_of(rng: Random) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """A font of this machine at a size of 22 to 56 pixels, or else Pillow's own."""
    files = sorted(FONTS.glob("*/*.ttf"))
    size = rng.randint(22, 56)
    return ImageFont.truetype(rng.choice(files), size) if files else ImageFont.load_default(size)


def painted(image: Image.Image, text: str, rng: Random) -> Image.Image | None:
    """The image with a text at a random position, rotated by up to 15 degrees; None if it does not fit."""
    font = font_of(rng)
    left, top, right, bottom = font.getbbox(text)
    label = Image.new("RGBA", (math.ceil(right - left) + 12, math.ceil(bottom - top) + 12))
    colour = rng.choice(COLOURS)
    edge = "black" if colour in ("white", "yellow", "orange") else "white"
    draw = ImageDraw.Draw(label)
    if rng.random() < 0.4:
        draw.rectangle((0, 0, *label.size), fill=edge)
        draw.text((6 - left, 6 - top), text, font=font, fill=colour)
    else:
        draw.text((6 - left, 6 - top), text, font=font, fill=colour, stroke_width=2, stroke_fill=edge)
    turned = label.rotate(rng.uniform(-MAX_ANGLE, MAX_ANGLE), Image.Resampling.BICUBIC, expand=True)
    if turned.width > image.width or turned.height > image.height:
        return None
    return pasted(image, turned, rng)


def pasted(ground: Image.Image, label: Image.Image, rng: Random) -> Image.Image:
    """The ground with the label somewhere on it."""
    result = ground.copy()
    place = (rng.randint(0, ground.width - label.width), rng.randint(0, ground.height - label.height))
    result.paste(label, place, label)
    return result


def unpainted_samples(rng: Random) -> list[Sample]:
    """The demo's pairs whose images show no words, in random order."""
    samples = [
        sample
        for shard in sorted(DATA.glob("*.tar.gz"))
        for sample in read_samples(Storage(), str(shard))
        if sample.problem is None and "junk" not in sample.meta
    ]
    rng.shuffle(samples)
    return samples


def painted_images(number: int, seed: int) -> list[PaintedImage]:
    """The images: half with words of the caption, a quarter without text, a quarter with words of another caption."""
    rng = Random(seed)
    samples = unpainted_samples(rng)
    photographs, made = backgrounds(rng), list[PaintedImage]()
    kinds: Sequence[Kind] = ("caption", "none", "caption", "other")
    for index, sample in enumerate(samples):
        if len(made) == number:
            break
        kind = kinds[len(made) % 4]
        own = decode(sample.image).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        image = own if rng.random() < 0.5 else rng.choice(photographs)
        if kind == "none":
            made.append(PaintedImage(image, sample.caption, kind))
            continue
        text = words_of(sample.caption if kind == "caption" else samples[index - 1].caption, rng)
        shown = painted(image, text.upper() if rng.random() < 0.4 else text, rng) if text else None
        if shown is not None:
            made.append(PaintedImage(shown, sample.caption, kind, text))
    return made


def shows(texts: Sequence[SpottedText], caption: str) -> bool:
    """The rule's verdict."""
    return any(RULE.matches(caption, text) for text in texts)


def by_defaults(engine: Any, image: Image.Image) -> list[SpottedText]:
    """What RapidOCR reads with its own settings."""
    result = engine(np.asarray(image)[:, :, ::-1].copy(), use_det=True, use_cls=False, use_rec=True)
    texts, scores = getattr(result, "txts", None) or (), getattr(result, "scores", None) or ()
    return [SpottedText(text, float(score)) for text, score in zip(texts, scores, strict=True)]


def default_engine() -> Any:
    """RapidOCR as it comes, on one thread."""
    from rapidocr import RapidOCR

    threads = {f"EngineConfig.onnxruntime.{name}_op_num_threads": 1 for name in ("intra", "inter")}
    return RapidOCR(params={"Global.log_level": "critical", **threads})


def requests(made: Sequence[PaintedImage]) -> list[SpottingRequest]:
    """The filter's requests: stop at the first text that matches the caption."""
    return [SpottingRequest(one.image, lambda text, it=one: RULE.matches(it.caption, text)) for one in made]


def ours(spotter: TextSpotter, made: Sequence[PaintedImage]) -> list[bool]:
    """Our verdicts, computed as the filter does."""
    found = spotter.spot_all(requests(made))
    return [shows(spotting.texts, picture.caption) for spotting, picture in zip(found, made, strict=True)]


def quality(spotter: TextSpotter, made: Sequence[PaintedImage]) -> dict[str, float]:
    """Recall and false hits in percent."""
    verdicts = list(zip(made, ours(spotter, made), strict=True))
    rates = {kind: [hit for picture, hit in verdicts if picture.kind == kind] for kind in ("caption", "none", "other")}
    by_rule = [
        RULE.matches(picture.caption, SpottedText(picture.shown, 1.0)) for picture in made if picture.kind == "other"
    ]
    names = {"recall": rates["caption"], "wrong": rates["none"], "other": rates["other"], "other_by_rule": by_rule}
    return {name: round(100 * float(np.mean(hits)), 2) for name, hits in names.items()}


def speed(spotter: TextSpotter, made: Sequence[PaintedImage]) -> dict[str, float]:
    """CPU milliseconds per image of both settings, which take turns of `TURN` images; their ratio, and the share of
    equal verdicts.
    """
    engine, seconds, equal = default_engine(), {"ours": 0.0, "defaults": 0.0}, 0
    by_defaults(engine, made[0].image)
    for start in range(0, len(made), TURN):
        turn = made[start : start + TURN]
        began = time.process_time()
        mine = ours(spotter, turn)
        middle = time.process_time()
        theirs = [shows(by_defaults(engine, picture.image), picture.caption) for picture in turn]
        seconds["ours"] += middle - began
        seconds["defaults"] += time.process_time() - middle
        equal += sum(own == other for own, other in zip(mine, theirs, strict=True))
    return {
        **{f"{side}_ms": round(1000 * value / len(made), 1) for side, value in seconds.items()},
        "ratio": round(seconds["defaults"] / seconds["ours"], 2),
        "equal_percent": round(100 * equal / len(made), 2),
        "pictures": len(made),
    }


def main() -> None:
    """Measure and print."""
    parser = make_parser("text_spotting", __doc__)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--compared", type=int, default=100, help="images that RapidOCR's defaults read as well")
    parser.add_argument(
        "--size", type=int, default=Filter().text_spotting.detector_size, help="detectorSize of the filter"
    )
    parser.add_argument(
        "--precision",
        choices=("BF16", "FP32"),
        default=Filter().text_spotting.precision,
        help="precision of the filter",
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    made = painted_images(arguments.pictures, arguments.seed)
    spotter = TextSpotter(detector_size=arguments.size, precision=arguments.precision)
    spotter.spot(made[0].image)
    figures = {
        "benchmark": "text_spotting",
        "options": vars(arguments),
        "percent": quality(spotter, made),
        "speed": speed(spotter, made[: arguments.compared]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
