"""The data set as committed: counts, sides that share nothing, painted words, size, and that webdataset reads it."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import webdataset as wds
from numpy.typing import NDArray
from PIL import Image

from diht_k8s.api.documents import load
from examples.build_data import junk, pictures
from examples.build_data.build import NEAR_DUPLICATE
from examples.build_data.candidates import normalised
from examples.build_data.groups import base_name
from examples.build_data.other_style import names_of

DATA = Path(__file__).resolve().parents[3] / "examples/data"

# webdataset leaves the shards that it has read to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


class Sample(NamedTuple):
    """One pair as a reader sees it."""

    key: str
    picture: bytes
    fields: dict[str, Any]


Thumbnail = Callable[[Sample], NDArray[np.float32]]


def read(folder: Path) -> list[Sample]:
    shards = [str(path) for path in sorted(folder.glob("*.tar.gz"))]
    dataset = wds.WebDataset(shards, shardshuffle=False, empty_check=False)
    return [Sample(s["__key__"], s["webp"], json.loads(s["json"])) for s in dataset]


@pytest.fixture(scope="module")
def pool() -> list[Sample]:
    return read(DATA / "train")


@pytest.fixture(scope="module")
def train(pool: list[Sample]) -> list[Sample]:
    """The pool without its junk."""
    return [sample for sample in pool if "junk" not in sample.fields]


@pytest.fixture(scope="module")
def development() -> list[Sample]:
    return read(DATA / "development")


@pytest.fixture(scope="module")
def held_out() -> list[Sample]:
    return read(DATA / "heldout")


@pytest.fixture(scope="module")
def other_style() -> list[Sample]:
    return read(DATA / "heldout_style")


@pytest.fixture(scope="module", params=["development", "heldout", "heldout_style"])
def gallery(request: pytest.FixtureRequest) -> list[Sample]:
    """Each of the three galleries in turn."""
    return read(DATA / request.param)


@pytest.fixture(scope="module")
def sources() -> dict[str, Any]:
    return json.loads((DATA / "SOURCES.json").read_text(encoding="utf-8"))


def image_of(sample: Sample) -> Image.Image:
    with Image.open(io.BytesIO(sample.picture), formats=["WEBP"]) as image:
        return image.convert("RGB")


@pytest.fixture(scope="module")
def thumbnail_of() -> Thumbnail:
    """The thumbnail of an image, computed once."""
    found = dict[bytes, NDArray[np.float32]]()

    def thumbnail(sample: Sample) -> NDArray[np.float32]:
        if sample.picture not in found:
            found[sample.picture] = pictures.thumbnail(image_of(sample))
        return found[sample.picture]

    return thumbnail


def test_counts_when_added_up_then_every_image_is_accounted_for(
    pool: list[Sample], train: list[Sample], development: list[Sample], held_out: list[Sample], sources: dict[str, Any]
) -> None:
    split = sources["split"]
    parts = (train, development, held_out)
    assert [split[name] for name in ("train", "development", "heldout")] == [len(part) for part in parts]
    assert sources["junk"] == dict(Counter(s.fields["junk"] for s in pool if "junk" in s.fields)) == junk.COUNTS
    kept = 0
    for counts in sources["pictures"].values():
        assert counts["seen"] == counts["kept"] + sum(counts["dropped"].values())
        kept += counts["kept"]
    assert kept == split["pictures"] == sum(map(len, parts)) + split["other_members_of_gallery_groups"]


def test_samples_when_read_then_fields_are_complete_and_uids_unique(
    pool: list[Sample], development: list[Sample], held_out: list[Sample], other_style: list[Sample]
) -> None:
    ours = [*pool, *development, *held_out]
    both = [*ours, *other_style]
    needed = {"caption", "uid", "source", "group", "painted", "licence", "file"}
    assert all(needed <= sample.fields.keys() for sample in both)
    assert len({sample.fields["uid"] for sample in both}) == len(both)
    assert len({sample.key for sample in pool}) == len(pool)
    assert {sample.fields["licence"] for sample in ours} == {"CC-PDDC", "OFL-1.1"}
    assert {sample.fields["licence"] for sample in other_style} == {"Apache-2.0", "CC-BY-4.0"}
    assert all(len(sample.fields["caption"]) >= 2 for sample in both)


@pytest.mark.parametrize(
    ("first", "second"), [("pool", "development"), ("pool", "held_out"), ("development", "held_out")]
)
def test_splits_when_compared_then_no_group_caption_or_image_is_on_both(
    first: str, second: str, thumbnail_of: Thumbnail, request: pytest.FixtureRequest
) -> None:
    ours, theirs = request.getfixturevalue(first), request.getfixturevalue(second)

    def values(samples: list[Sample]) -> set[str]:
        return {
            value
            for s in samples
            for value in (
                f"group {s.fields['group']}",
                f"caption {normalised(s.fields['caption'])}",
                f"picture {hashlib.sha256(s.picture).hexdigest()}",
            )
        }

    assert values(ours) & values(theirs) == set()
    assert lookalikes(theirs, ours, thumbnail_of) == []


def test_other_style_when_compared_then_shares_no_name_source_or_image_with_the_other_splits(
    train: list[Sample],
    development: list[Sample],
    held_out: list[Sample],
    other_style: list[Sample],
    thumbnail_of: Thumbnail,
) -> None:
    seen = [*train, *development, *held_out]
    names = {name for s in seen for name in names_of(s.fields)}
    captions = [s.fields["caption"] for s in other_style]
    assert not [caption for caption in captions if {normalised(caption), base_name(caption)} & names]
    assert {s.fields["source"] for s in other_style} & {s.fields["source"] for s in seen} == set()
    assert lookalikes(other_style, seen, thumbnail_of) == []


def lookalikes(first: list[Sample], second: list[Sample], thumbnail_of: Thumbnail) -> list[tuple[int, int]]:
    """Pairs across the two that look nearly the same; images that were painted on are left out."""
    plain = [s for s in second if not s.fields["painted"]]
    thumbnails_ND = np.stack([thumbnail_of(s) for s in [*first, *plain]])
    limit = NEAR_DUPLICATE * 0.8  # the builder compared images before WebP changed them a little
    return [(a, b) for a, b in pictures.near_duplicates(thumbnails_ND, limit=limit) if a < len(first) <= b]


def test_demo_when_it_evaluates_then_shows_the_held_out_split_and_lists_the_other_for_choices() -> None:
    evaluate = load((DATA.parent / "demo.yaml").read_text(), name="demo.yaml").spec.evaluate
    assert evaluate is not None
    assert evaluate.split == "HeldOut"
    folders = {"Development": {"development"}, "HeldOut": {"heldout", "heldout_style"}}
    assert all(str(each.shards[0]).split("/")[2] in folders[str(each.split)] for each in evaluate.benchmarks)
    assert [each.name for each in evaluate.chosen] == ["heldout-retrieval", "heldout-classes", "other-style"]
    assert evaluate.benchmarks[0].split == "Development"


def test_gallery_when_read_then_500_groups_unpainted_with_captions_of_their_own(gallery: list[Sample]) -> None:
    assert len(gallery) == 500
    assert len({s.fields["group"] for s in gallery}) == 500
    assert len({normalised(s.fields["caption"]) for s in gallery}) == 500
    assert not any(s.fields["painted"] for s in gallery)
