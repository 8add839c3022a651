"""From a table of captions to kept shards: the images come from an HTTP server on the loopback, and most are not
fetched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.recipe.filter.shards import drawn, filter_with, run_of
from tests.recipe.filter.tables import pairs, table_run, write_table

RULES = {"minActions": 1, "maxBadPercent": 10, "metadataLimits": [{"name": "pwatermark", "max": 0.5}]}
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
    filter_with(table_run(tmp_path / "captions", write_table(tmp_path / "pool.parquet", rows), RULES))
    by_img2dataset(tmp_path / "captions" / "runs/latest/filter" / "survivors", tmp_path / "shards")
    assert 0 < len(web.fetched) == len(set(web.fetched)) <= 0.2 * len(rows)
    parsed.clear()
    rules = {**RULES, "textSpotting": {"detectorSize": 160}, "scoresFrom": f"{tmp_path}/captions/runs/latest/filter"}
    later = filter_with(run_of(tmp_path / "later", f"{tmp_path}/shards/*.tar", rules))
    assert parsed == []
    counts = later.summary["counts"]
    assert counts["input"] == len(web.fetched)
    assert counts["kept"] + counts["dropped"]["text"] == counts["input"]
    assert 0 < counts["dropped"]["text"] < counts["kept"]
