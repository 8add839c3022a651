"""A sheet of images with what their labels name and no word of their captions does, for judging by eye how often that is right.

In: a committed label stage. Out: PNG pages of 50 images each, drawn by a seed from all that have such an object, a table of them
with an empty column for the judge, and a JSON line. `--judged TABLE` counts a table that has been filled in.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from diht_k8s.api.documents import load
from diht_k8s.api.run import DihtRun
from diht_k8s.recipe.label.caption_concepts import read_captions
from diht_k8s.recipe.label.features import group_of
from diht_k8s.recipe.label.report import named, outside_caption
from diht_k8s.recipe.label.soft_labels import read_labels
from diht_k8s.recipe.label.vocabulary import ConceptVocabulary
from diht_k8s.recipe.runtime.inputs import kept_shards
from diht_k8s.recipe.runtime.run_folder import run_layout
from diht_k8s.recipe.shards.images import decode
from diht_k8s.recipe.shards.pairs import read_pairs
from diht_k8s.recipe.shards.storage import Storage

ROOT: Final = Path(__file__).resolve().parents[1]
COLUMNS, ROWS, CELL, IMAGE = 10, 5, (150, 190), 96
FIELDS: Final = ("number", "uid", "group", "label", "probability", "caption", "right")
"""Columns of the table; `right` is 1 where the judge sees the label in the image, else 0."""


@dataclass(frozen=True)
class Added:
    """An image and an object that only its label names."""

    uid: str
    group: str
    """equal for variants of one drawing."""
    caption: str
    name: str
    probability: float
    image: Image.Image


def main() -> None:
    """Draw the pages and write the table, or count a judged one."""
    parser = argparse.ArgumentParser(prog="benchmarks/run added_labels", description=__doc__)
    parser.add_argument(
        "--document", default="examples/demo.yaml", help="a run that has been labelled (default: %(default)s)"
    )
    parser.add_argument("--output", help="its data.output where that is another than the document's")
    parser.add_argument("--pictures", type=int, default=100, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default: %(default)s)")
    parser.add_argument(
        "--sheet", default="added_labels", help="SHEET-0.png, ... and SHEET.csv are written (default: %(default)s)"
    )
    parser.add_argument(
        "--drawings", action="store_true", help="one image of each drawing with a label, in place of --pictures"
    )
    parser.add_argument("--judged", metavar="TABLE", help="count this table's verdicts instead")
    options = parser.parse_args()
    if options.judged:
        with Path(options.judged).open(newline="") as file:
            print(json.dumps({"benchmark": "added_labels", **verdicts(csv.DictReader(file))}))
        return
    sheet = Path(options.sheet).resolve()
    overrides = [f"data.output={Path(options.output).resolve()}"] if options.output else []
    os.chdir(ROOT)
    found = added_objects(load(Path(options.document).read_text(), name=options.document, overrides=overrides))
    drawn = [found[number] for number in np.random.default_rng(options.seed).permutation(len(found))]
    drawn = first_of_each(drawn) if options.drawings else drawn[: options.pictures]
    write_sheet(drawn, sheet)
    names = Counter(entry.name for entry in drawn).most_common()
    groups = len({(entry.group, entry.name) for entry in found})
    print(json.dumps({"benchmark": "added_labels", "pictures": len(found), "groups": groups, "drawn": names}))


def added_objects(run: DihtRun) -> list[Added]:
    """Of each image its likeliest object that the label names and no word of the caption does."""
    storage, found = Storage(run.spec.storage), list[Added]()
    layout = run_layout(run, storage)
    concepts = ConceptVocabulary.from_document(json.loads(storage.read_bytes(layout.vocabulary))).objects
    for shard in kept_shards(run.spec, storage, layout):
        labels = read_labels(storage, layout.labels(shard.name))
        head, names_N = labels.objects, read_captions(storage, layout, shard).objects
        added_NK = outside_caption(head, concepts, names_N) & named(head, labels.header)
        for row, sample in enumerate(read_pairs(storage, shard)):
            said = words(" ".join([sample.caption, *names_N[row]]))
            for place in np.flatnonzero(added_NK[row]):  # likeliest first
                name = concepts.names[head.ids_NK[row, place]]
                if not words(name) <= said:
                    probability = float(head.probabilities_NK[row, place])
                    image = decode(sample.image)
                    found.append(Added(sample.uid, group_of(sample), sample.caption, name, probability, image))
                    break
    return found


def first_of_each(entries: Sequence[Added]) -> list[Added]:
    """The first image of each group with each label."""
    first: dict[tuple[str, str], Added] = {}
    for entry in entries:
        first.setdefault((entry.group, entry.name), entry)
    return list(first.values())


def words(text: str) -> set[str]:
    """The words of a text in lower case."""
    return set(re.findall(r"\w+", text.lower()))


def verdicts(rows: Iterable[Mapping[str, str]]) -> dict[str, Any]:
    """How many of a judged table are right: of all, of the first of each group with this label, by label."""
    judged = [(row["group"], row["label"], row["right"] == "1") for row in rows if row["right"] in ("0", "1")]
    first = {(group, label): right for group, label, right in reversed(judged)}
    labels = Counter(label for _, label, _ in judged)
    right_of = Counter(label for _, label, right in judged if right)
    return {
        "judged": len(judged),
        "right": sum(right for _, _, right in judged),
        "groups": len(first),
        "right_groups": sum(first.values()),
        "labels": {label: [right_of[label], count] for label, count in labels.most_common()},
    }


def write_sheet(drawn: Sequence[Added], sheet: Path) -> None:
    """Pages and table."""
    size = COLUMNS * ROWS
    for page in range(-(-len(drawn) // size)):
        draw_page(drawn[page * size : (page + 1) * size], page * size).save(f"{sheet}-{page}.png")
    with Path(f"{sheet}.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(FIELDS)
        table.writerows(
            [number, entry.uid, entry.group, entry.name, round(entry.probability, 3), entry.caption, ""]
            for number, entry in enumerate(drawn)
        )


def draw_page(entries: Sequence[Added], first: int) -> Image.Image:
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
