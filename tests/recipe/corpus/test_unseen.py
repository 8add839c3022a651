"""What trainings are also measured on: names without colours, sets that no split has, and their categories."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks.ablation import label_plan
from benchmarks.corpus import __main__ as command
from benchmarks.corpus import build as building
from benchmarks.corpus import unseen
from benchmarks.corpus.build import Corpus, Drawn, Entry, drawn_of, look_of
from benchmarks.corpus.captions import COLOURS, kind_of
from benchmarks.corpus.drawing import Icon
from benchmarks.corpus.icon_sets import ICON_SETS
from examples.build_data.shards import Pair

SHAPE = '<path d="M{x} {y}h{w}v{h}z"/>'


def body(number: int) -> str:
    return "".join(
        SHAPE.format(x=(number * k) % 11, y=(number + 3 * k) % 9, w=3 + number % 7 + k, h=2 + (number * k) % 10)
        for k in (1, 2, 3)
    )


def named(thing: str, **more: object) -> Pair:
    return Pair(picture=b"", fields={"thing": thing, "caption": f"a teal icon of {thing}", "captions": ["x"], **more})


def words(number: int) -> str:
    return f"{'abcdefghij'[number // 10] * 3}{'klmnopqrst'[number % 10] * 3}"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Sets of 60 icons, those without a size of category without categories: 30 animals, 20 foods and 10 without a category; one is a variant, one has a colour."""
    icons = {words(number): {"body": body(number)} for number in range(60)}
    icons |= {"aaakkk-2": {"body": body(61)}, "red-fox": {"body": body(62)}, "123": {"body": body(63)}}
    names = list(icons)
    document = {
        "icons": icons,
        "width": 24,
        "height": 24,
        "info": {"license": {"spdx": "CC-BY-SA-4.0"}, "palette": True},
        "categories": {"Animals": names[:30], "Food": [*names[30:50], "red-fox"]},
    }
    (tmp_path / "json").mkdir()
    for name in (*unseen.MEASURED_SETS, "ph"):
        found = document if name in unseen.CATEGORY else {key: document[key] for key in document if key != "categories"}
        (tmp_path / f"json/{name}.json").write_text(json.dumps(found))
    info = {"license": {"spdx": "MIT"}, "author": {"name": "Somebody"}}
    (tmp_path / "collections.json").write_text(json.dumps(dict.fromkeys([*unseen.MEASURED_SETS, "ph"], info)))
    return tmp_path


def test_gallery_of_names_when_made_then_captions_are_names_and_none_tells_a_colour() -> None:
    pairs = [named("alarm clock"), *(named(f"{colour} heart") for colour in COLOURS), named("zebra")]
    found = unseen.names_of(pairs)
    assert [pair.fields["caption"] for pair in found] == ["alarm clock", "zebra"]
    assert [pair.fields["captions"] for pair in found] == [["alarm clock"], ["zebra"]]
    assert [pair.fields["thing"] for pair in unseen.names_of(pairs, frozenset({"zebra", "alarm"}))] == ["zebra"]


def test_categories_when_some_are_small_then_the_others_have_as_many_drawings_and_a_class_each() -> None:
    pairs = [
        named(f"{category} {n}", category=category)
        for category, size in (("b", 5), ("a", 4), ("", 9), ("c", 3))
        for n in range(size)
    ]
    chosen, names = unseen.categories_of(pairs, 4)
    assert names == ["a", "b"]
    assert np.bincount([pair.fields["cls"] for pair in chosen]).tolist() == [4, 4]
    assert all(names[pair.fields["cls"]] == pair.fields["category"] for pair in chosen)


def test_unseen_set_when_drawn_then_has_one_of_each_concept_and_accounts_for_every_icon(package: Path) -> None:
    found = unseen.unseen_set(package, "openmoji", Corpus())
    assert found.tally.seen == 63
    assert found.tally.kept == len(found.pairs)
    assert found.tally.dropped["names_no_thing"] == 1
    assert found.tally.dropped["variant_of_another"] == 1
    concepts = [pair.fields["concept"] for pair in found.pairs]
    assert len(set(concepts)) == len(concepts)
    assert {pair.fields["category"] for pair in found.pairs} == {"Animals", "Food", ""}
    assert sum(kind_of(pair.fields["thing"]) == "colour" for pair in found.pairs) == 1
    again = unseen.unseen_set(package, "openmoji", Corpus())
    assert [pair.picture for pair in again.pairs] == [pair.picture for pair in found.pairs]


def test_unseen_set_when_a_training_pair_looks_the_same_then_is_without_it(package: Path) -> None:
    before = unseen.unseen_set(package, "openmoji", Corpus()).pairs
    entry = Entry(
        "openmoji",
        before[0].fields["file"],
        "x",
        "emoji",
        "x",
        "measured_only",
        "",
        Icon(
            json.loads((package / "json/openmoji.json").read_text())["icons"][before[0].fields["file"]]["body"],
            (0, 0, 24, 24),
        ),
        True,
        (),
    )
    drawn = drawn_of(entry, look_of(entry))
    assert not isinstance(drawn, str)
    found = unseen.unseen_set(package, "openmoji", Corpus(training_bits=np.array([drawn.bits_4])))
    assert before[0].fields["uid"] not in {pair.fields["uid"] for pair in found.pairs}
    assert found.tally.dropped["looks_like_a_training_pair"] >= 1


def test_galleries_when_trainings_were_measured_on_them_then_have_the_same_drawings_whatever_looks_alike(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unseen, "CATEGORY", dict.fromkeys(unseen.CATEGORY, 5))
    monkeypatch.setattr(unseen, "PUBLISHED", {})
    drawn = unseen.unseen_set(package, "openmoji", Corpus()).pairs
    bits = np.array([found.bits_4 for pair in drawn if not isinstance(found := _drawn_again(package, pair), str)])
    wanted = {pair.fields["uid"] for pair in drawn if pair.fields["category"] == "Animals"}
    named = frozenset(list(wanted)[:7])
    frozen = {"openmoji_names": named, "openmoji_categories": frozenset(wanted)}
    monkeypatch.setattr(unseen, "published", lambda folder: frozen.get(folder, frozenset()))
    train = [Pair(picture=b"", fields=pair.fields) for pair in drawn]
    corpus = Corpus(training_bits=bits)
    corpus.pairs["train"].extend(train)
    pairs, classes, _ = unseen.folders(package, corpus)
    assert {pair.fields["uid"] for pair in pairs["openmoji_names"]} == named
    assert classes["openmoji_categories"] == ["Animals"]
    assert len(pairs["openmoji_categories"]) == 5
    assert pairs["icon_park_names"] == [], "all look like the training"


def _drawn_again(package: Path, pair: Pair) -> Drawn | str:
    icons = json.loads((package / "json/openmoji.json").read_text())["icons"]
    file = pair.fields["file"]
    entry = Entry(
        "openmoji",
        file,
        pair.fields["thing"],
        "emoji",
        "x",
        "measured_only",
        "",
        Icon(icons[file]["body"], (0, 0, 24, 24)),
        True,
        (),
    )
    return drawn_of(entry, look_of(entry))


def test_command_when_run_then_writes_every_folder_that_the_evidence_reads_and_accounts_for_their_icons(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = {name: ICON_SETS[name] for name in ("ph", "streamline-pixel")}
    monkeypatch.setattr(building, "ICON_SETS", sets)
    monkeypatch.setattr(command, "ICON_SETS", sets)
    monkeypatch.setattr(command, "fetch", lambda _: package)
    monkeypatch.setattr(unseen, "CATEGORY", dict.fromkeys(unseen.CATEGORY, 5))
    monkeypatch.setattr(unseen, "PUBLISHED", {})
    monkeypatch.setattr("sys.argv", ["corpus", "--work", str(tmp_path / "runs/corpus"), "--workers", "1"])
    assert command.main() == 0
    document = yaml.safe_load(Path("benchmarks/ablation/corpus.yaml").read_text())["spec"]
    patterns = [
        *document["data"]["sources"][0]["shards"],
        *(each for benchmark in document["evaluate"]["benchmarks"] for each in benchmark["shards"]),
    ]
    for pattern in [*patterns, *(f"runs/corpus/{folder}/*.tar.gz" for folder in label_plan.GALLERIES.values())]:
        assert list(tmp_path.glob(pattern)), pattern
    sources = json.loads((tmp_path / "runs/corpus/SOURCES.json").read_text())
    for each in sources["measured_only"].values():
        assert each["seen"] == each["kept"] + sum(each["dropped"].values()) == 63
    assert (tmp_path / "runs/corpus/openmoji_categories/classnames.txt").read_text() == "Animals\nFood\n"
