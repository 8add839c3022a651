"""Labels that captions lack, judged by eye: pages and a table to fill in, or the count of a judged table.

`--judged benchmarks/added_labels.csv` counts our verdicts. A label is added if no word of it stands in the caption.
General words are right ("animal" on a cow); names, places and doubts are wrong.

By a protocol written before, 90 drawings chose among eleven methods and 100 others tested the choice, once. Weak: a
language model read both times; agreement (kappa 0.93) shows a stable reading, not a right one.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import textwrap
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from benchmarks._arguments import make_parser
from diht_k8s.api.documents import load
from diht_k8s.api.run import DihtRun
from diht_k8s.data.feature_files import read_tensors
from diht_k8s.data.shards.images import decode
from diht_k8s.data.shards.pairs import read_pairs
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.inputs import kept_shards
from diht_k8s.runtime.run_folder import run_layout
from diht_k8s.stages.label.caption_concepts import read_captions
from diht_k8s.stages.label.features import group_of
from diht_k8s.stages.label.report import CaptionUse, words
from diht_k8s.stages.label.soft_labels import HeadLabels, read_labels
from diht_k8s.stages.label.vocabulary import Concepts, ConceptVocabulary

ROOT: Final = Path(__file__).resolve().parents[1]
CELL, IMAGE, COLUMNS = (150, 190), 104, 10
ROWS: Final = {"first": 6, "second": 4}
"""Rows of a page of each reading."""
SAMPLES: Final = {"shown": 100, "paper": 100, "attributes": 50}
FROM: Final = {"shown": 0.285, "paper": 0.2, "attributes": 0.2}
"""The least score of a label: that of 30 % of the development half, and what pages showed before."""
SAME_MOTIF: Final = 0.9
COVERAGES: Final = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
FIELDS: Final = (
    "method",
    "coverage",
    "uid",
    "group",
    "label",
    "score",
    "caption",
    "first_place",
    "second_place",
    "first",
    "second",
)
"""Columns of the table; `first` and `second` are 1 where that reading found the label right, else 0."""


@dataclass(frozen=True)
class Drawing:
    """The representative of a drawing."""

    uid: str
    group: str
    caption: str
    image: bytes
    feature_D: NDArray[np.float32]
    """of length 1."""
    labels: Mapping[str, tuple[str, float]]
    """method -> added label and score, where there is one."""


def main() -> None:
    """Write pages and table, or count a judged one."""
    parser = make_parser("added_labels", __doc__)
    parser.add_argument("--document", default="examples/demo.yaml", help="a labelled run (default: %(default)s)")
    parser.add_argument("--output", help="its data.output where that is another than the document's")
    parser.add_argument("--sheets", default="added_labels", help="folder of pages and table (default: %(default)s)")
    parser.add_argument("--judged", metavar="TABLE", help="count this table's verdicts instead")
    options = parser.parse_args()
    if options.judged:
        with Path(options.judged).open(newline="") as file:
            print(json.dumps({"benchmark": "added_labels", **verdicts(list(csv.DictReader(file)))}))
        return
    sheets = Path(options.sheets).resolve()
    overrides = [f"data.output={Path(options.output).resolve()}"] if options.output else []
    os.chdir(ROOT)
    drawings = confirming(load(Path(options.document).read_text(), name=options.document, overrides=overrides))
    covered = {method: sum(method in each.labels for each in drawings) / len(drawings) for method in SAMPLES}
    drawn = [(method, each) for method, most in SAMPLES.items() for each in sample(drawings, method, most)]
    sheets.mkdir(parents=True, exist_ok=True)
    write_sheets(drawn, covered, sheets)
    print(json.dumps({"benchmark": "added_labels", "drawings": len(drawings), "coverage": covered}))


def confirming(run: DihtRun) -> list[Drawing]:
    """The drawings of the confirming half (see the protocol)."""
    variants = defaultdict[str, list[Drawing]](list)
    for each in _pictures(run):
        if digest(f"half {each.group}") % 2:
            variants[each.group].append(each)
    return [min(found, key=lambda each: digest(f"0 {each.uid}")) for _, found in sorted(variants.items())]


def digest(text: str) -> int:
    """SHA-256 as a number."""
    return int(hashlib.sha256(text.encode()).hexdigest(), 16)


def _pictures(run: DihtRun) -> Iterable[Drawing]:
    """All kept pairs without junk, with the label of each method."""
    storage = Storage(run.spec.storage)
    layout = run_layout(run, storage)
    vocabulary = ConceptVocabulary.from_document(json.loads(storage.read_bytes(layout.vocabulary)))
    use, shards = CaptionUse(vocabulary.objects), kept_shards(run.spec, storage, layout)
    for shard in shards:
        use.add(read_captions(storage, layout, shard))
    for shard in shards:
        labels, captions = read_labels(storage, layout.labels(shard.name)), read_captions(storage, layout, shard)
        tensors, _ = read_tensors(storage, layout.features(shard.name))
        scores_NK = use.scores(labels.objects, captions)
        for row, pair in enumerate(read_pairs(storage, shard)):
            if pair.meta.get("junk"):
                continue
            names = [*captions.objects[row], *captions.attributes[row]]
            said = words(" ".join([pair.caption, *names]))
            ways = {
                "shown": (labels.objects, vocabulary.objects, scores_NK[row]),
                "paper": (labels.objects, vocabulary.objects, labels.objects.probabilities_NK[row]),
                "attributes": (labels.attributes, vocabulary.attributes, labels.attributes.probabilities_NK[row]),
            }
            found = {
                method: added(*way, row, lambda name, said=said: words(name) <= said) for method, way in ways.items()
            }
            feature_D = tensors["features"][row].float().numpy()
            yield Drawing(
                pair.uid,
                group_of(pair),
                pair.caption,
                pair.image,
                (feature_D / max(float(np.linalg.norm(feature_D)), 1e-9)).astype(np.float32),
                {method: best for method, best in found.items() if best[1] >= FROM[method]},
            )


def added(
    head: HeadLabels, concepts: Concepts, score_K: NDArray[Any], row: int, is_said: Callable[[str], bool]
) -> tuple[str, float]:
    """The class of the highest score that the caption does not say."""
    for place in np.argsort(-score_K, kind="stable"):
        name = concepts.names[head.ids_NK[row, place]]
        if not is_said(name):
            return name, float(score_K[place])
    return "", 0.0


def sample(drawings: Sequence[Drawing], method: str, most: int) -> list[Drawing]:
    """Drawings with a label of a method in random order, each motif once."""
    covered = [each for each in drawings if method in each.labels]
    taken = defaultdict[str, list[Drawing]](list)
    drawn = list[Drawing]()
    for number in np.random.default_rng(0).permutation(len(covered)):
        each = covered[number]
        same = taken[each.labels[method][0]]
        if len(drawn) < most and all(float(other.feature_D @ each.feature_D) < SAME_MOTIF for other in same):
            same.append(each)
            drawn.append(each)
    return drawn


def verdicts(rows: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Of each method: judged labels, right in each reading and in both, agreement, the curve by coverage, counts by
    label.
    """
    return {method: _verdicts([row for row in rows if row["method"] == method]) for method in SAMPLES}


def _verdicts(rows: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    ranked = sorted(rows, key=lambda row: -float(row["score"]))
    first, second = (np.array([row[name] == "1" for row in ranked], np.float64) for name in ("first", "second"))
    same = float((first == second).mean())
    chance = float(first.mean() * second.mean() + (1 - first.mean()) * (1 - second.mean()))
    counts, coverage = Counter(row["label"] for row in ranked), float(ranked[0]["coverage"])
    right = Counter(row["label"] for row in ranked if row["first"] == row["second"] == "1")
    return {
        "judged": len(ranked),
        "first": int(first.sum()),
        "second": int(second.sum()),
        "both": int((first * second).sum()),
        "agreement": round(same, 3),
        "kappa": round((same - chance) / (1 - chance), 3) if chance < 1 else None,
        "both_by_coverage": {
            share: [int((first * second)[: (most := round(len(ranked) * share / coverage))].sum()), most]
            for share in COVERAGES
        },
        "labels": {label: [right[label], count] for label, count in counts.most_common()},
    }


def write_sheets(drawn: Sequence[tuple[str, Drawing]], covered: Mapping[str, float], sheets: Path) -> None:
    """The pages of both readings and the table."""
    orders = {name: np.random.default_rng(seed).permutation(len(drawn)) for seed, name in enumerate(ROWS, start=1)}
    for name, order in orders.items():
        entries, size = [drawn[number] for number in order], COLUMNS * ROWS[name]
        for page in range(-(-len(entries) // size)):
            draw_page(entries[page * size : (page + 1) * size], page * size, ROWS[name]).save(
                sheets / f"{name}-{page}.png"
            )
    places = {name: np.argsort(order) for name, order in orders.items()}
    with (sheets / "added_labels.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(FIELDS)
        for number, (method, each) in enumerate(drawn):
            label, score = each.labels[method]
            at = [places[name][number] for name in ROWS]
            row = [method, round(covered[method], 3), each.uid, each.group, label, round(score, 3), each.caption]
            table.writerow([*row, *at, "", ""])


def draw_page(entries: Sequence[tuple[str, Drawing]], first: int, rows: int) -> Image.Image:
    """A grid of images: number and added label above, caption below; neither method nor score."""
    page = Image.new("RGB", (COLUMNS * CELL[0], rows * CELL[1]), "white")
    draw, large, small = ImageDraw.Draw(page), ImageFont.load_default(15), ImageFont.load_default(11)
    for number, (method, each) in enumerate(entries):
        x, y = number % COLUMNS * CELL[0], number // COLUMNS * CELL[1]
        draw.text((x + 3, y + 2), f"{first + number}: {each.labels[method][0]}"[:22], fill="darkred", font=large)
        image = decode(each.image)
        scale = IMAGE / max(image.size)
        image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
        page.paste(image, (x + 23, y + 22))
        draw.text((x + 3, y + 130), "\n".join(textwrap.wrap(each.caption, 26)[:4]), fill="black", font=small)
        draw.rectangle((x, y, x + CELL[0] - 1, y + CELL[1] - 1), outline="lightgrey")
    return page


if __name__ == "__main__":
    main()
