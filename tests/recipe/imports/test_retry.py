"""`diht import --retry`: what failed is asked for, each row once, and every cause is counted."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diht_k8s.api.errors import UserError
from diht_k8s.cli.main import main
from diht_k8s.data.imports import downloads
from diht_k8s.data.imports.downloads import Web
from diht_k8s.data.imports.failed_rows import read_failed_rows
from diht_k8s.data.imports.pair_import import PairImport, import_pairs
from diht_k8s.data.shards.images import BadImageError
from diht_k8s.data.shards.storage import Storage
from tests.recipe.imports.faulty_web import FAULTS, FaultyWeb, serving
from tests.recipe.imports.loose_pairs import jpeg
from tests.recipe.imports.outputs import imported, pairs, tree

FAILED = 60
"""Rows that img2dataset could not fetch, of which 18 fail again: three of each of six kinds."""
RETRY = ("--retry", "--allow-host", "127.0.0.1")


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyWeb]:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(downloads, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(downloads, "MAX_DELAY", 0.01)
    monkeypatch.setattr(downloads, "SOCKET_SECONDS", 2.0)
    with serving(FaultyWeb()) as served:
        yield served


def failed_paths() -> list[str]:
    """Three of ten rows fail again, in turn of all kinds."""
    kinds, found = list(FAULTS), list[str]()
    for number in range(FAILED):
        kind = kinds[(number // 10 * 3 + number % 10) % len(kinds)] if number % 10 < 3 else "ok"
        found.append(f"{kind}/{number}")
    return found


def img2dataset_output(folder: Path, web: FaultyWeb, paths: Sequence[str]) -> Path:
    """Two shards, of whose rows every second one came and is not to be asked for again."""
    folder.mkdir()
    half = len(paths) // 2
    for shard, part in enumerate((paths[:half], paths[half:])):
        rows = list[dict[str, Any]]()
        for number, path in enumerate(part):
            common = {"caption": f"pair {path}", "key": f"{shard}{number:04d}", "width": None, "sha256": None}
            rows.append({**common, "url": web.url(f"came/{number}"), "status": "success", "error_message": None})
            message = "HTTP Error 503" if number % 2 else "Image decoding error"
            status = "failed_to_download" if number % 2 else "failed_to_resize"
            rows.append({**common, "url": web.url(path), "status": status, "error_message": message})
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{shard:05d}.parquet", row_group_size=7)
        stats = {
            "count": len(rows),
            "successes": len(part),
            "failed_to_download": len(part) // 2,
            "failed_to_resize": len(part) - len(part) // 2,
        }
        (folder / f"{shard:05d}_stats.json").write_text(json.dumps(stats))
        (folder / f"{shard:05d}.tar").write_bytes(b"")
    return folder


def causes(marker: dict[str, Any]) -> dict[str, int]:
    return {reason: found["count"] for reason, found in marker["bad"].items()}


def failed_rows(output: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line) for path in sorted(output.glob("failed/*.jsonl")) for line in path.read_text().splitlines()
    ]


def test_only_what_failed_is_asked_for_each_once_and_causes_add_up(
    web: FaultyWeb, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = failed_paths()
    source = img2dataset_output(tmp_path / "in", web, paths)
    marker = imported(source, tmp_path / "out", *RETRY, "--shard-size", "25")
    assert sorted(web.asked) == sorted(paths)
    assert causes(marker) == dict.fromkeys(FAULTS.values(), 3)
    assert marker["samples"] + sum(causes(marker).values()) == marker["records"] == FAILED
    assert marker["seen"]["count"] == 2 * FAILED
    assert marker["seen"]["ignored"]["success"]["count"] == FAILED
    assert marker["notes"] == []
    good = [path for path in paths if path.startswith("ok/")]
    assert [sample.caption for sample in pairs(tmp_path / "out")] == [f"pair {path}" for path in good]
    assert [sample.image for sample in pairs(tmp_path / "out")] == [jpeg(int(path.partition("/")[2])) for path in good]
    again = {row["url"]: row["error_message"] for row in failed_rows(tmp_path / "out")}
    assert again == {web.url(path): FAULTS[path.partition("/")[0]] for path in paths if path not in good}
    said = capsys.readouterr().out
    assert "left out: 3 http_503, for example" in said
    assert f"diht import {tmp_path / 'out'} NEW --retry" in said


def test_a_second_retry_asks_for_what_failed_again_only(web: FaultyWeb, tmp_path: Path) -> None:
    paths = failed_paths()
    imported(img2dataset_output(tmp_path / "in", web, paths), tmp_path / "out", *RETRY)
    web.asked.clear()
    imported(tmp_path / "in", tmp_path / "out", *RETRY)
    assert web.asked == []
    web.is_well = True
    marker = imported(tmp_path / "out", tmp_path / "again", *RETRY)
    bad = [path for path in paths if not path.startswith("ok/")]
    assert sorted(web.asked) == sorted(bad)
    assert (marker["samples"], marker["bad"], failed_rows(tmp_path / "again")) == (len(bad), {}, [])
    assert [sample.caption for sample in pairs(tmp_path / "again")] == [f"pair {path}" for path in bad]


def test_an_interrupted_retry_asks_for_no_row_of_a_finished_shard_again(web: FaultyWeb, tmp_path: Path) -> None:
    paths = failed_paths()
    source = img2dataset_output(tmp_path / "in", web, paths)

    def run(output: Path, stop_after: int = 10**6) -> None:
        advanced = iter(range(stop_after))

        def advance() -> None:
            if next(advanced, None) is None:
                raise KeyboardInterrupt

        rows = read_failed_rows(source, Web(["127.0.0.1"]), caption=None)
        import_pairs(rows, PairImport(str(output), 20, retry=True), Storage(), lambda *_: None, advance)

    run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", stop_after=45)
    assert not (tmp_path / "broken/COMMITTED.json").exists()
    web.asked.clear()
    run(tmp_path / "broken")
    assert sorted(web.asked) == sorted(paths[40:])
    assert tree(tmp_path / "broken") == tree(tmp_path / "whole")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_each_row_of_a_plain_table_is_asked_for(suffix: str, web: FaultyWeb, tmp_path: Path) -> None:
    path = tmp_path / f"urls{suffix}"
    rows = [
        {"URL": web.url(f"ok/{number}"), "TEXT": f"pair {number}", "pwatermark": 0.5, "uid": f"{number:032x}"}
        for number in range(3)
    ]
    if suffix == ".csv":
        path.write_text("".join(f"{','.join(map(str, line))}\n" for line in (rows[0], *(row.values() for row in rows))))
    elif suffix == ".jsonl":
        path.write_text(
            "".join(json.dumps(row) + "\n" for row in [*rows, {"TEXT": "no url"}, {"URL": web.url("ok/9")}])
        )
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    marker = imported(path, tmp_path / "out", *RETRY)
    assert sorted(web.asked) == ["ok/0", "ok/1", "ok/2"]
    assert causes(marker) == ({"caption_missing": 1, "url_missing": 1} if suffix == ".jsonl" else {})
    assert marker["notes"] == [f"{path} has no column status: each of its rows is asked for"]
    found = pairs(tmp_path / "out")
    assert [(sample.caption, sample.uid, sample.meta["url"], sample.meta["pwatermark"]) for sample in found] == [
        (row["TEXT"], row["uid"], row["URL"], 0.5) for row in rows
    ]
    assert failed_rows(tmp_path / "out") == []


def test_rows_that_somebody_refused_are_not_asked_for(web: FaultyWeb, tmp_path: Path) -> None:
    messages = ["image too small", "Use of image disallowed by X-Robots-Tag directive", "hash mismatch", "timed out"]
    rows = [
        {"url": web.url(f"ok/{number}"), "caption": "a", "status": "failed_to_resize", "error_message": message}
        for number, message in enumerate(messages)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    marker = imported(tmp_path / "a.parquet", tmp_path / "out", *RETRY)
    assert web.asked == ["ok/3"]
    assert marker["seen"]["ignored"]["refused"]["count"] == 3


@pytest.mark.parametrize(
    ("path", "sha256", "allowed", "cause"),
    [
        ("ok/1", None, [], "address_not_public"),
        ("elsewhere/1", None, ["localhost"], "address_not_public"),
        ("noai/1", None, ["localhost"], "disallowed_by_robots_tag"),
        ("ok/1", "0" * 64, ["localhost"], "sha256_differs"),
        ("500/1", None, ["localhost"], "http_500"),
        ("circle/1", None, ["localhost"], "too_many_redirects"),
    ],
    ids=["private address", "redirect to a private address", "robots tag", "another image", "500", "circle"],
)
def test_what_must_not_be_stored_is_refused(
    path: str, sha256: str | None, allowed: list[str], cause: str, web: FaultyWeb
) -> None:
    with pytest.raises(BadImageError, match=f"^{cause}$"):
        Web(allowed).get(web.url(path).replace("127.0.0.1", "localhost"), sha256)
    assert set(web.asked) == ({path} if allowed else set())


@pytest.mark.parametrize("path", ["ok/1", "others/1", "elsewhere/1"])
def test_an_image_that_may_be_used_is_taken(path: str, web: FaultyWeb) -> None:
    body = Web(["127.0.0.1"]).get(web.url(path), hashlib.sha256(jpeg(1)).hexdigest())
    assert body == jpeg(1)


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("file:///etc/passwd", "url_invalid"),
        ("ftp://a/b", "url_invalid"),
        ("nonsense", "url_invalid"),
        ("http://[", "url_invalid"),
        ("http://127.0.0.1:1/a", "connection_failed"),
        ("http://no-such-host.invalid/a", "host_unknown"),
    ],
)
def test_urls_that_lead_nowhere_are_counted(url: str, cause: str, web: FaultyWeb) -> None:
    with pytest.raises(BadImageError, match=f"^{cause}$"):
        Web(["127.0.0.1"]).get(url)


def test_a_host_that_keeps_failing_is_left_alone(web: FaultyWeb, monkeypatch: pytest.MonkeyPatch) -> None:
    asking, found = Web(["127.0.0.1"]), list[str]()
    for number in range(12):
        with pytest.raises(BadImageError) as caught:
            asking.get(web.url(f"503/{number}"))
        found.append(caught.value.reason)
    assert Counter(found) == {"http_503": downloads.GIVE_UP, "host_given_up": 12 - downloads.GIVE_UP}
    assert len(web.asked) == downloads.GIVE_UP


def test_nothing_that_failed_is_said_so(web: FaultyWeb, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"url": web.url("ok/1"), "caption": "a", "status": "success"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert main(["import", str(tmp_path / "a.parquet"), str(tmp_path / "out"), "--retry"]) == UserError.exit_code
    assert "none of its 1 rows failed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--allow-host", "a"], "--allow-host goes with --retry"),
        (["--retry", "--images", "x"], "--images does not go with --retry"),
        (["--retry", "--format", "table"], "--format does not go with --retry"),
        (["--retry"], "does not exist: name the output of img2dataset"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_options_that_would_do_nothing_are_refused(
    given: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", str(tmp_path / "no"), str(tmp_path / "out"), *given]) == UserError.exit_code
    assert says in capsys.readouterr().err


def test_failures_that_img2dataset_counts_otherwise_are_noted(web: FaultyWeb, tmp_path: Path) -> None:
    source = img2dataset_output(tmp_path / "in", web, ["ok/0", "ok/1", "ok/2", "ok/3"])
    (source / "00000_stats.json").write_text(json.dumps({"failed_to_download": 9, "failed_to_resize": 0}))
    marker = imported(source, tmp_path / "out", *RETRY)
    assert marker["notes"] == [f"{source}/00000.parquet names 2 failures, but 00000_stats.json says 9"]
