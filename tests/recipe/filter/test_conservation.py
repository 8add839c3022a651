"""Nothing is lost and nothing comes twice: random layouts of sources, and planted breaks, which end without a
marker.
"""

from __future__ import annotations

import gzip
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from diht_k8s.api.errors import DataError
from diht_k8s.api.run import DihtRun
from diht_k8s.data.imports import url_tables
from diht_k8s.data.shards.samples import read_samples, until_damage
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples
from diht_k8s.stages.filter import kept_pairs, shard_filter, stage
from diht_k8s.stages.filter.group_summaries import GroupSummary
from diht_k8s.stages.filter.shard_filter import ShardFilter
from diht_k8s.stages.filter.summary import Summary
from tests.recipe.filter.shards import drawn, filter_with, folder_of, pair, rows_of, run_of, tar_of, with_spec
from tests.recipe.filter.tables import pairs, survivors, table_run, write_table

GOOD, SIMPLE = "a small dog chasing a red ball", "server"
IMAGE = drawn()
STEMS = ("0", "00", "0-2", "a", "a-0", "a-1", "1", "web", "web-0", "x.y", "b-0-0")
FOLDERS = ("", "a/", "b/", "a/b/", "web/", "0/", "c-0/")


def drawn_layout(rng: random.Random, folder: Path) -> tuple[DihtRun, Counter[str]]:
    """A run over shards with names that resemble each other, some of them empty, and how often each uid stands in
    them.
    """
    names = dict.fromkeys(f"{stem}{end}" for stem in STEMS for end in ("", "-1"))
    files = [f"{place}{name}.tar" for place in FOLDERS for name in names]
    chosen, uids = rng.sample(files, rng.choice((1, 2, 3, 7, 20, 60))), Counter[str]()
    for number, name in enumerate(chosen):
        path, members = folder / "in" / name, []
        path.parent.mkdir(parents=True, exist_ok=True)
        for place in range(rng.randint(0 if number else 1, 3)):
            first, key = number == place == 0, rng.choice(("k", f"{place}", "k-2"))  # one pair is kept in any case
            caption, image = (
                GOOD if first else rng.choice((GOOD, SIMPLE)),
                IMAGE if first or rng.random() < 0.9 else b"",
            )
            members += pair(key, caption, image, uid=f"{number}-{place}")
            uids[f"{number}-{place}"] += 1
        path.write_bytes(tar_of(members))
    cut, output = rng.randint(1, len(chosen)), rng.choice(("Shards", "KeepList"))
    run = run_of(folder / "out", "x", {"output": output, "language": "Any", "maxBadPercent": 100})
    parts = [part for part in (chosen[:cut], chosen[cut:]) if part]
    sources = [
        {"name": name, "shards": [f"{folder}/in/{each}" for each in part], "filter": rng.random() < 0.7}
        for name, part in zip(("web", "web-0"), parts, strict=False)
    ]
    return with_sources(run, sources), uids


def with_sources(run: DihtRun, sources: list[dict[str, Any]]) -> DihtRun:
    return with_spec(run, data={"sources": sources, "output": run.spec.data.output, "maxBadShards": "100%"})


def drawn_tables(rng: random.Random, folder: Path) -> tuple[DihtRun, Counter[str]]:
    """A run over tables of all formats with such names, of one part or several."""
    ends = (".parquet", ".csv", ".tsv", ".jsonl", ".csv.gz", ".jsonl.gz", "-1.parquet")
    files = list(dict.fromkeys(f"{place}{stem}{end}" for place in FOLDERS for stem in STEMS for end in ends))
    chosen, uids = rng.sample(files, rng.choice((1, 2, 3, 7))), Counter[str]()
    for number, name in enumerate(chosen):
        rows = [
            {**row, "uid": f"{number}-{row['uid']}", "text": row["text"] or ""} for row in pairs(rng.randint(1, 40))
        ]
        rows[0] |= {"text": GOOD, "original_width": 96}
        uids.update(row["uid"] for row in rows)
        path = folder / "in" / name
        packed = path.suffix == ".gz"  # its plain twin may be drawn, too
        plain = Path(write_table(folder / "plain" / path.with_suffix("").name if packed else path, rows))
        if packed:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress(plain.read_bytes()))
    cut = rng.randint(1, len(chosen))
    parts = [part for part in (chosen[:cut], chosen[cut:]) if part]
    sources = [
        {"name": name, "captions": [f"{folder}/in/{each}" for each in part], "filter": rng.random() < 0.7}
        for name, part in zip(("web", "web-0"), parts, strict=False)
    ]
    return with_sources(table_run(folder / "out", "x", {"language": "Any", "maxBadPercent": 100}), sources), uids


def check_rows(run: DihtRun, uids: Counter[str]) -> Counter[str]:
    """Filter; every uid stands in the scores as often as it went in, and the counts are theirs. The kept ones."""
    committed = filter_with(run)
    names = [shard["name"] for shard in committed.summary["shards"]]
    rows = [row for name in names for row in rows_of(Path(run.spec.data.output), name)]
    assert Counter(row.uid for row in rows) == uids
    kept, counts = Counter(row.uid for row in rows if row.kept), committed.summary["counts"]
    assert (counts["input"], counts["kept"]) == (uids.total(), kept.total())
    return kept


def check_tables(seed: int, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Filter drawn tables in small parts; every row comes out once, by what lies on the disk."""
    rng = random.Random(seed)
    patch.setattr(url_tables, "PART_ROWS", rng.choice((3, 10, 1000)))
    patch.setattr(url_tables, "PART_BYTES", rng.choice((300, 2000, 1 << 20)))
    run, uids = drawn_tables(rng, folder)
    kept = check_rows(run, uids)
    assert Counter(row["uid"] for row in survivors(folder / "out")) == kept


def check_layout(seed: int, folder: Path) -> None:
    """Filter a drawn layout; every pair that went in comes out once, by what lies on the disk."""
    run, uids = drawn_layout(random.Random(seed), folder)
    kept = check_rows(run, uids)
    if run.spec.filter is not None and run.spec.filter.output == "Shards":
        tars = sorted((folder_of(run) / "kept").iterdir())
        copied = Counter(sample.uid for path in tars for sample in until_damage(read_samples(Storage(), str(path))))
        assert copied == kept


@pytest.mark.parametrize("seed", range(8))
def test_every_pair_of_a_random_layout_comes_out_once(seed: int, tmp_path: Path) -> None:
    check_layout(seed, tmp_path)


@pytest.mark.parametrize("seed", range(6))
def test_every_row_of_random_tables_comes_out_once(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_tables(seed, tmp_path, monkeypatch)


@pytest.mark.slow
def test_every_pair_of_many_random_layouts_and_tables_comes_out_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(100, 500):
        check_layout(seed, tmp_path / str(seed))
        check_tables(seed, tmp_path / f"{seed} tables", monkeypatch)
        for folder in (tmp_path / str(seed), tmp_path / f"{seed} tables"):
            shutil.rmtree(folder)


Plant = Callable[[pytest.MonkeyPatch], object]


def reader_skips_a_sample(patch: pytest.MonkeyPatch) -> None:
    read = ShardFilter._read
    patch.setattr(ShardFilter, "_read", lambda *arguments: iter(list(read(*arguments))[1:]))


def scores(change: Callable[[pa.Table], pa.Table]) -> Plant:
    table = shard_filter._ScoredSamples.table
    return lambda patch: patch.setattr(shard_filter._ScoredSamples, "table", lambda found: change(table(found)))


def kept(change: Callable[[list[Any]], list[Any]]) -> Plant:
    def write(storage: Storage, uri: str, samples: Iterable[Any], **options: Any) -> int:
        return write_samples(storage, uri, change(list(samples)), **options)

    return lambda patch: patch.setattr(kept_pairs, "write_samples", write)


def renamed(samples: list[tuple[str, Mapping[str, bytes]]]) -> list[tuple[str, Mapping[str, bytes]]]:
    """Two pairs under one key: all members are there, and readers see a pair less."""
    return [
        ("same", {f"{number}.{suffix}": data for suffix, data in parts.items()})
        for number, (_, parts) in enumerate(samples)
    ]


def at_the_end(change: Callable[[Path], object]) -> Plant:
    """Change the stage's folder when all shards are filtered."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        finish = stage.finish

        def changed(context: Any, *rest: Any, **options: Any) -> Any:
            change(Path(context.layout.stage(context.stage)))
            return finish(context, *rest, **options)

        patch.setattr(stage, "finish", changed)

    return plant


def groups(change: Callable[[list[GroupSummary]], list[GroupSummary]]) -> Plant:
    summaries = stage._summaries

    def changed(*arguments: Any) -> Iterator[GroupSummary]:
        return iter(change(list(summaries(*arguments))))

    return lambda patch: patch.setattr(stage, "_summaries", changed)


def first_group(change: Callable[[GroupSummary], object]) -> Plant:
    """Change what one group's summary says."""

    def changed(found: list[GroupSummary]) -> list[GroupSummary]:
        change(found[0])
        return found

    return groups(changed)


def one_more(counted: dict[str, int] | Summary | GroupSummary, name: str) -> None:
    if isinstance(counted, dict):
        counted[name] += 1
    else:
        setattr(counted, name, getattr(counted, name) + 1)


def two_of_one_name(patch: pytest.MonkeyPatch) -> None:
    finish = stage.finish
    patch.setattr(stage, "finish", lambda context, groups, names: finish(context, groups, names[:1] * 2))


def drop_is_not_counted(patch: pytest.MonkeyPatch) -> None:
    add = Summary.add

    def changed(summary: Summary, row: Any, *rest: Any, **options: Any) -> None:
        add(summary, row, *rest, **options)
        summary.dropped.clear()

    patch.setattr(Summary, "add", changed)


def shorter(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def copied(path: Path) -> None:
    shutil.copy(path, path.with_name(f"copy{path.suffix}"))


BREAKS: dict[str, tuple[Plant, str]] = {
    "reader skips a sample": (reader_skips_a_sample, "2 samples are kept, dropped or bad, but 3 were read"),
    "row removed from scores": (scores(lambda table: table.slice(1)), "3 samples .*, but 2 rows are in the scores"),
    "kept pair lost": (kept(lambda pairs: pairs[1:]), "4 members do its pairs have, but 2 members were written"),
    "two kept pairs under one key": (kept(renamed), "2 samples are kept, but 1 pairs are in the file"),
    "drop is not counted": (drop_is_not_counted, "2 samples are kept, dropped or bad, but 3 were filtered"),
    "kept tar gone": (at_the_end(lambda folder: (folder / "kept/web-a.tar").unlink()), r"kept/web-a\.tar has gone"),
    "kept tar shorter": (at_the_end(lambda folder: shorter(folder / "kept/web-a.tar")), r"kept/web-a\.tar is damaged"),
    "kept tar twice": (at_the_end(lambda folder: copied(folder / "kept/web-a.tar")), "2 shards, but 3 files"),
    "group left out": (groups(lambda found: found[:-1]), "2 shards are listed, but 1 are summed up"),
    "two shards of one name": (two_of_one_name, "2 shards are listed, but 1 names do they have"),
    "group with a sample more": (
        first_group(lambda group: one_more(group.total, "input")),
        "6 samples are kept, dropped or bad, but 7 were filtered",
    ),
    "shard with a sample more": (
        first_group(lambda group: one_more(group.shards[0], "input")),
        "6 samples .*, but 7 are the shards' samples",
    ),
    "group with a row more": (
        first_group(lambda group: one_more(group, "rows")),
        "6 samples .*, but 7 rows are in the",
    ),
    "shard with a kept pair more": (
        first_group(lambda group: one_more(group.shards[0], "kept")),
        "4 samples are kept, but 5 are the shards' kept",
    ),
    "group with a pair more": (
        first_group(lambda group: one_more(group, "pairs")),
        "4 samples are kept, but 5 pairs are",
    ),
    "other group in its place": (groups(lambda found: [found[0]] * 2), "2 shards are listed, but 1 of them are summed"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_planted_break_ends_the_stage_without_a_marker(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shard in "ab":
        captions = (GOOD, SIMPLE, GOOD)
        members = [part for number, text in enumerate(captions) for part in pair(f"{shard}-{number}", text, IMAGE)]
        (tmp_path / f"{shard}.tar").write_bytes(tar_of(members))
    run, (plant, said) = run_of(tmp_path / "out", f"{tmp_path}/?.tar", {"language": "Any"}), BREAKS[name]
    with monkeypatch.context() as patch:
        plant(patch)
        with pytest.raises(DataError, match=said):
            filter_with(run)
    assert not (folder_of(run) / "COMMITTED.json").exists()
