"""The caption pass over tables, as a whole: the same verdicts as from shards, splits, resuming, and the pass that
follows, also over what img2dataset fetches from an HTTP server on the loopback.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.data.imports import url_tables
from diht_k8s.data.shards.storage import Storage
from diht_k8s.outputs.takedown import purge
from diht_k8s.runtime.signals import StopFlag
from tests.recipe.filter.shards import drawn, files_of, filter_by_two, filter_with, rows_of, run_of
from tests.recipe.filter.tables import pairs, shard_of, survivors, table_run, write_table

RULES = {
    "minActions": 1,
    "maxBadPercent": 10,
    "language": "en",
    "metadataLimits": [{"name": "pwatermark", "max": 0.5}],
}


def verdicts(output: Path, *shards: str) -> list[tuple[str, str, str, int, int]]:
    rows = [row for shard in shards for row in rows_of(output, shard)]
    return [(row.uid, row.caption_sha256, row.reason, row.complexity, row.num_actions) for row in rows]


@pytest.mark.parametrize("name", ["pool.parquet", "pool.csv", "pool.tsv", "pool.jsonl"])
def test_table_and_tar_of_the_same_pairs_get_the_same_verdicts(tmp_path: Path, name: str) -> None:
    missing = None if name in ("pool.parquet", "pool.jsonl") else ""  # a cell of a CSV is never missing
    rows = [{**row, "text": row["text"] or missing} for row in pairs(300)]
    exclude = tmp_path / "exclude.txt"
    url = hashlib.sha256(rows[10]["url"].encode()).hexdigest()
    exclude.write_text(f"{rows[20]['uid']}\n{url}\n")
    rules = {**RULES, "exclude": str(exclude)}
    (tmp_path / "pool.tar").write_bytes(shard_of(rows))
    tar = filter_with(run_of(tmp_path / "tar", str(tmp_path / "pool.tar"), rules))
    table = filter_with(table_run(tmp_path / "table", write_table(tmp_path / name, rows), rules))
    from_tar, from_table = verdicts(tmp_path / "tar", "web-pool"), verdicts(tmp_path / "table", "web-pool-00000")
    assert from_table == from_tar
    assert table.summary["counts"] == tar.summary["counts"]
    assert set(table.summary["counts"]["dropped"]) == {"action", "complexity", "exclude", "language", "metadata"}
    assert table.summary["counts"]["bad"] == {"caption_missing" if missing is None else "caption_empty": 13}
    kept = [uid for uid, _, reason, *_ in from_tar if not reason]
    assert [row["uid"] for row in survivors(tmp_path / "table")] == kept


def test_clip_score_is_left_to_the_run_over_the_downloaded_shards(tmp_path: Path) -> None:
    table, rule = write_table(tmp_path / "a.parquet", pairs(100)), {"model": f"{tmp_path}/no-model", "minScore": 1}
    plain = filter_with(table_run(tmp_path / "plain", table))
    scored = filter_with(table_run(tmp_path / "scored", table, {"clipScore": rule}))
    assert scored.summary["counts"] == plain.summary["counts"]


def test_table_of_several_row_groups_is_split_over_workers_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(url_tables, "PART_ROWS", 100)
    monkeypatch.setattr(url_tables, "PART_BYTES", 20_000)
    rows = pairs(1000)
    whole = filter_with(
        table_run(tmp_path / "whole", write_table(tmp_path / "a.parquet", rows, row_group_size=250), RULES)
    )
    assert [shard["input"] for shard in whole.summary["shards"]] == [83, 83, 84] * 4
    assert filter_by_two(table_run(tmp_path / "two", str(tmp_path / "a.parquet"), RULES)) == [0, 0]
    assert files_of(tmp_path / "two") == files_of(tmp_path / "whole")
    lines = filter_with(table_run(tmp_path / "lines", write_table(tmp_path / "b.jsonl", rows), RULES))
    assert len(lines.summary["shards"]) > 5
    assert lines.summary["counts"] == whole.summary["counts"]
    assert survivors(tmp_path / "lines") == survivors(tmp_path / "whole")


def test_sizes_of_the_table_drop_images_before_they_are_fetched(tmp_path: Path) -> None:
    table = write_table(tmp_path / "a.parquet", pairs(300))
    committed = filter_with(table_run(tmp_path / "out", table, {"minSide": 64, "maxAspectRatio": 2}))
    assert committed.summary["counts"]["dropped"]["size"] > 0
    kept = {row["uid"] for row in survivors(tmp_path / "out")}
    assert kept == {row["uid"] for row in pairs(300) if row["uid"] in kept and row["original_width"] == 96}


def test_uid_is_a_hash_of_url_and_caption_where_the_table_has_none(tmp_path: Path) -> None:
    rows = [{"URL": row["url"], "TEXT": row["text"], "SAMPLE_ID": 7} for row in pairs(100)]
    filter_with(table_run(tmp_path / "out", write_table(tmp_path / "laion.parquet", rows)))
    found = survivors(tmp_path / "out")
    assert len(found) > 10
    for row in found:
        assert row["uid"] == hashlib.sha256(f"{row['url']}\0{row['text']}".encode()).hexdigest()[:32]
    assert (tmp_path / "out" / "runs/latest/filter" / "uids.npy").exists()


def test_uids_that_are_no_hex_digits_give_no_list_and_scores_are_found(tmp_path: Path, parsed: list[str]) -> None:
    rows = [{**row, "uid": f"row {number}"} for number, row in enumerate(pairs(100))]
    filter_with(table_run(tmp_path / "out", write_table(tmp_path / "a.parquet", rows)))
    assert not (tmp_path / "out" / "runs/latest/filter" / "uids.npy").exists()
    found = survivors(tmp_path / "out")
    (tmp_path / "pool.tar").write_bytes(shard_of(found, [b"no image", *[drawn()] * (len(found) - 1)]))
    parsed.clear()
    rules = {"minActions": 1, "maxBadPercent": 50, "scoresFrom": f"{tmp_path}/out/runs/latest/filter"}
    later = filter_with(run_of(tmp_path / "later", str(tmp_path / "pool.tar"), rules))
    assert parsed == []
    assert later.summary["counts"]["bad"] == {
        "picture_unreadable": 1
    }  # no image was read before, whatever the scores say


def test_later_pass_reuses_the_scores_by_uid_and_reads_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parsed: list[str]
) -> None:
    monkeypatch.setattr(url_tables, "PART_ROWS", 100)
    filter_with(table_run(tmp_path / "out", write_table(tmp_path / "a.parquet", pairs(300)), RULES))
    downloaded = list(reversed(survivors(tmp_path / "out")))  # in any order
    changed = {**downloaded[3], "text": "a black cat watches two birds"}
    new = {"uid": "0" * 32, "url": "http://127.0.0.1:9/x", "text": "a boy kicks a yellow ball"}
    (tmp_path / "pool.tar").write_bytes(shard_of([*downloaded[:3], changed, *downloaded[4:], new]))
    (tmp_path / "bad.tar").write_bytes(shard_of(downloaded[:2], [b"no image"] * 2))
    parsed.clear()
    rules = {**RULES, "maxBadPercent": 100, "textSpotting": {"mode": "Drop", "detectorSize": 96}}
    shards = [str(tmp_path / "pool.tar"), str(tmp_path / "bad.tar")]
    fresh = filter_with(run_of(tmp_path / "fresh", shards, rules))
    assert len(parsed) == len(downloaded) + 1 + 2
    parsed.clear()
    later = filter_with(
        run_of(tmp_path / "later", shards, {**rules, "scoresFrom": f"{tmp_path}/out/runs/latest/filter"})
    )
    assert sorted(parsed) == sorted([changed["text"], new["text"]])
    assert later.summary["counts"] == fresh.summary["counts"]
    assert later.summary["counts"]["bad"] == {"picture_unreadable": 2}
    assert files_of(tmp_path / "later") == files_of(tmp_path / "fresh")


BAD_TABLES: list[tuple[str, bytes, type[Exception], str]] = [
    ("a.parquet", b"PAR1 and no more", DataError, "a.parquet cannot be read"),
    ("a.parquet", b"", DataError, "a.parquet cannot be read"),
    ("a.csv", b"", DataError, "has no row that can be read"),
    ("a.csv", b"path,text\na,b\n", UserError, "has no column of URLs (its columns: path, text): rename it to url"),
    ("a.csv", b"url,words\na,b\n", UserError, "name it by data.sources[].captionKey"),
    ("a.jsonl", b"[1]\nnull\n{", DataError, "has no row that can be read"),
    ("a.jsonl.gz", b"\x1f\x8b\x08 damaged", DataError, "cannot be read"),
    ("a.txt", b"http://127.0.0.1/a", UserError, "is no table that can be read: expected .parquet"),
]


@pytest.mark.parametrize(("name", "content", "error", "says"), BAD_TABLES)
def test_table_that_cannot_be_read_is_named_with_what_to_do(
    tmp_path: Path, name: str, content: bytes, error: type[Exception], says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error) as raised:
        filter_with(table_run(tmp_path / "out", str(tmp_path / name)))
    assert says in str(raised.value)


def test_bad_rows_are_counted_by_reason(tmp_path: Path) -> None:
    good = b'{"url": "http://127.0.0.1/a", "caption": "a dog chases a red ball"}'
    lines = [
        good,
        b"no json",
        b'{"url": "http://127.0.0.1/a"}',
        b'{"url": "", "caption": "a dog"}',
        b'{"url": 3, "caption": "x"}',
        b'{"url": "u", "caption": 7}',
        b'{"url": "u", "caption": "\\ud800 dog"}',
        b'{"url": "u", "caption": " "}',
        b'{"url": "u", "caption": "' + b"x" * 20_000 + b'"}',
        b'{"url": "u", "caption": "' + b"x" * 2_000_000 + b'"}',
        good,
        b"\xff\xfe",
        b"",
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    committed = filter_with(table_run(tmp_path / "out", str(tmp_path / "a.jsonl"), {"maxBadPercent": 100}))
    assert committed.summary["counts"]["kept"] == 2
    assert committed.summary["counts"]["bad"] == {
        "caption_empty": 1,
        "caption_missing": 1,
        "caption_no_text": 1,
        "caption_not_utf8": 1,
        "caption_too_long": 1,
        "row_unreadable": 3,
        "url_missing": 2,
    }
    with pytest.raises(DataError, match="more than maxBadPercent 10") as raised:
        filter_with(table_run(tmp_path / "strict", str(tmp_path / "a.jsonl")))
    assert "imageKey" not in str(raised.value)


def test_purge_says_how_pairs_of_a_table_are_removed(tmp_path: Path) -> None:
    run = table_run(tmp_path / "out", write_table(tmp_path / "a.parquet", pairs(50)))
    filter_with(run)
    (tmp_path / "list.txt").write_text(pairs(1)[0]["uid"])
    with pytest.raises(UserError, match=r"add the list to filter\.exclude and run it again"):
        purge(run, Storage(), str(tmp_path / "list.txt"), StopFlag())


DOWNLOADED = {"minActions": 1, "maxBadPercent": 10, "metadataLimits": [{"name": "pwatermark", "max": 0.5}]}
IMG2DATASET = os.environ.get("IMG2DATASET") or shutil.which("img2dataset")


class Web:
    """Serves an image under each number; each fifth shows a word of most captions."""

    def __init__(self) -> None:
        self.fetched: list[str] = []
        plain, painted, fetched = drawn(size=(160, 80)), drawn("number", size=(160, 80)), self.fetched

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                fetched.append(self.path)
                content = plain if int(self.path.strip("/").removesuffix(".png")) % 5 else painted
                self.send_response(200)
                self.send_header("Content-Type", "image/png")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def web() -> Iterator[Web]:
    web = Web()
    thread = threading.Thread(target=web.server.serve_forever, daemon=True)
    thread.start()
    yield web
    web.server.shutdown()
    thread.join()
    web.server.server_close()


def by_img2dataset(table: Path, shards: Path) -> None:
    command = [
        str(IMG2DATASET),
        "--url_list",
        str(table),
        "--input_format",
        "parquet",
        "--url_col",
        "url",
        "--caption_col",
        "text",
        "--save_additional_columns",
        '["uid","pwatermark"]',
        "--output_format",
        "webdataset",
        "--output_folder",
        str(shards),
        "--image_size",
        "128",
        "--number_sample_per_shard",
        "300",
        "--processes_count",
        "1",
        "--thread_count",
        "8",
    ]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(command, check=True, env={**clean, "NO_ALBUMENTATIONS_UPDATE": "1"}, capture_output=True)


@pytest.mark.slow
@pytest.mark.skipif(IMG2DATASET is None, reason="no img2dataset: set IMG2DATASET")
def test_kept_shards_are_those_of_all_images_while_four_fifths_are_not_fetched(
    tmp_path: Path, web: Web, parsed: list[str]
) -> None:
    rows = pairs(5000, base=web.base)
    filter_with(table_run(tmp_path / "captions", write_table(tmp_path / "pool.parquet", rows), DOWNLOADED))
    by_img2dataset(tmp_path / "captions" / "runs/latest/filter" / "survivors", tmp_path / "shards")
    assert 0 < len(web.fetched) == len(set(web.fetched)) <= 0.2 * len(rows)
    parsed.clear()
    rules = {
        **DOWNLOADED,
        "textSpotting": {"detectorSize": 160},
        "scoresFrom": f"{tmp_path}/captions/runs/latest/filter",
    }
    later = filter_with(run_of(tmp_path / "later", f"{tmp_path}/shards/*.tar", rules))
    assert parsed == []
    counts = later.summary["counts"]
    assert counts["input"] == len(web.fetched)
    assert counts["kept"] + counts["dropped"]["text"] == counts["input"]
    assert 0 < counts["dropped"]["text"] < counts["kept"]
