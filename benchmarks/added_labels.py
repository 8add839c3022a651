"""A sheet of images with what their labels name and their captions do not, for judging by eye how often that is right.

In: a committed label stage. Out: PNG pages of 50 images each, drawn at random from all that have such an object, and a JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from diht_k8s.api.documents import load
from diht_k8s.api.layout import Layout
from diht_k8s.api.run import DihtRun
from diht_k8s.recipe.label.caption_concepts import read_captions
from diht_k8s.recipe.label.report import NAMED, outside_caption
from diht_k8s.recipe.label.soft_labels import read_labels
from diht_k8s.recipe.label.vocabulary import ConceptVocabulary
from diht_k8s.recipe.runtime.inputs import kept_shards
from diht_k8s.recipe.shards.images import decode
from diht_k8s.recipe.shards.pairs import read_pairs
from diht_k8s.recipe.shards.storage import Storage

ROOT: Final = Path(__file__).resolve().parents[1]
COLUMNS, ROWS, CELL, IMAGE = 10, 5, (150, 190), 96


@dataclass(frozen=True)
class Added:
    """An image and an object that only its label names."""

    uid: str
    caption: str
    name: str
    probability: float
    image: Image.Image


def main() -> None:
    """Draw the pages."""
    parser = argparse.ArgumentParser(prog="benchmarks/run added_labels", description=__doc__)
    parser.add_argument(
        "--document", default="examples/demo.yaml", help="a run that has been labelled (default: %(default)s)"
    )
    parser.add_argument("--output", help="its data.output where that is another than the document's")
    parser.add_argument("--pictures", type=int, default=100, help="(default: %(default)s)")
    parser.add_argument("--sheet", default="added_labels", help="pages are SHEET-0.png, ... (default: %(default)s)")
    options = parser.parse_args()
    sheet = Path(options.sheet).resolve()
    overrides = [f"data.output={Path(options.output).resolve()}"] if options.output else []
    os.chdir(ROOT)
    found = added_objects(load(Path(options.document).read_text(), name=options.document, overrides=overrides))
    chosen = np.random.default_rng(0).permutation(len(found))[: options.pictures]
    size = COLUMNS * ROWS
    for page in range(-(-len(chosen) // size)):
        draw_page([found[number] for number in chosen[page * size : (page + 1) * size]], page * size).save(
            f"{sheet}-{page}.png"
        )
    print(json.dumps({"benchmark": "added_labels", "pictures": len(found), "drawn": [found[n].name for n in chosen]}))


def added_objects(run: DihtRun) -> list[Added]:
    """Of each image its likeliest object of at least `NAMED` that the caption does not name."""
    storage, layout, found = Storage(run.spec.storage), Layout(run.spec.data.output), list[Added]()
    concepts = ConceptVocabulary.from_document(json.loads(storage.read_bytes(layout.vocabulary))).objects
    for shard in kept_shards(run.spec, storage):
        head = read_labels(storage, layout.labels(shard.name)).objects
        captions = read_captions(storage, layout, shard)
        added_NK = outside_caption(head, concepts, captions.objects) & (head.probabilities_NK >= NAMED)
        for row, sample in enumerate(read_pairs(storage, shard)):
            if added_NK[row].any():
                place = int(added_NK[row].argmax())  # likeliest first
                name, probability = concepts.names[head.ids_NK[row, place]], float(head.probabilities_NK[row, place])
                found.append(Added(sample.uid, sample.caption, name, probability, decode(sample.image)))
    return found


def draw_page(entries: list[Added], first: int) -> Image.Image:
    """A grid of images: number and added object above, caption below."""
    page = Image.new("RGB", (COLUMNS * CELL[0], ROWS * CELL[1]), "white")
    draw, large, small = ImageDraw.Draw(page), ImageFont.load_default(15), ImageFont.load_default(11)
    for number, entry in enumerate(entries):
        x, y = number % COLUMNS * CELL[0], number // COLUMNS * CELL[1]
        draw.text(
            (x + 3, y + 2), f"{first + number}: {entry.name} {entry.probability:.2f}"[:22], fill="darkred", font=large
        )
        image = entry.image.copy()
        image.thumbnail((IMAGE, IMAGE))
        page.paste(image, (x + 25, y + 24))
        draw.text((x + 3, y + 124), "\n".join(textwrap.wrap(entry.caption, 26)[:4]), fill="black", font=small)
        draw.rectangle((x, y, x + CELL[0] - 1, y + CELL[1] - 1), outline="lightgrey")
    return page


if __name__ == "__main__":
    main()
