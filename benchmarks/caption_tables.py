"""The caption pass over a table beside the filter over a tar of the same pairs, C and A only, by CPU time.

The tar's images (64 px) are decoded if the pair passes. Start-up is subtracted. 10,000 web captions, the best of two
rounds, load averages of 20 to 45.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

from benchmarks._arguments import make_parser
from benchmarks.captions import read_captions
from benchmarks.filter import FEW, cpu_seconds
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples

PER_TAR = 10_000


def main() -> None:
    """Measure and print."""
    parser = make_parser("caption_tables", __doc__)
    parser.add_argument("--captions", help="JSON list of captions (10,000 are enough)")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    given = read_captions(arguments.captions)
    again = -(-arguments.count // len(given))
    captions = [f"{caption} {n}" if n else caption for n in range(again) for caption in given][: arguments.count]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_both(folder / "few", captions[:FEW])
        write_both(folder / "all", captions)
        rounds = [
            {side: seconds(folder, side, number) for side in ("tar", "table")} for number in range(arguments.rounds)
        ]
        kept = {side: counts(folder, side)["kept"] for side in ("tar", "table")}
        fetched = sum(path.stat().st_size for path in (folder / "all").glob("*.parquet"))
    if kept["tar"] != kept["table"]:
        raise SystemExit(f"the verdicts differ: {kept}")
    best = {side: min(each[side] for each in rounds) for side in ("tar", "table")}
    figures = {
        "benchmark": "caption_tables",
        "captions": len(captions),
        "kept_percent": round(100 * kept["table"] / len(captions), 1),
        "captions_per_cpu_second": {side: round(len(captions) / spent) for side, spent in best.items()},
        "ratio": round(best["tar"] / best["table"], 2),
        "table_bytes_per_caption": round(fetched / len(captions)),
    }
    print(json.dumps(figures))


def write_both(folder: Path, captions: Sequence[str]) -> None:
    """A table and tars of the same pairs."""
    folder.mkdir()
    rows: list[dict[str, Any]] = [
        {"uid": f"{number:032x}", "url": f"http://127.0.0.1/{number}.jpg", "text": caption}
        for number, caption in enumerate(captions)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "pool.parquet")
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "lightblue").save(buffer, "JPEG")
    for start in range(0, len(rows), PER_TAR):
        samples = [
            (row["uid"], {"jpg": buffer.getvalue(), "txt": row["text"].encode(), "json": json.dumps(row).encode()})
            for row in rows[start : start + PER_TAR]
        ]
        write_samples(Storage(), str(folder / f"{start:08}.tar"), samples)


def seconds(folder: Path, side: str, number: int) -> float:
    """CPU seconds of one side without its start."""
    few, whole = (cpu_seconds(document(folder, size, side, number), 1)[0] for size in ("few", "all"))
    return whole - few


def document(folder: Path, size: str, side: str, number: int) -> Path:
    """A run with the filter stage only, C and A."""
    files = {"tar": ("shards", "*.tar"), "table": ("captions", "*.parquet")}[side]
    spec = {
        "data": {
            "sources": [{"name": "pool", files[0]: [f"{folder}/{size}/{files[1]}"]}],
            "output": str(output(folder, size, side, number)),
        },
        "filter": {
            "textSpotting": {"mode": "Disabled"},
            "maxBadPercent": 100,
            "minComplexity": 1 if size == "all" else 0,
            "minActions": 1 if size == "all" else 0,
        },
    }
    text = {"apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "metadata": {"name": side}, "spec": spec}
    path = folder / f"{size}-{side}-{number}.yaml"
    path.write_text(yaml.safe_dump(text))
    return path


def output(folder: Path, size: str, side: str, number: int) -> Path:
    """Where a run writes."""
    return folder / "out" / f"{size}-{side}-{number}"


def counts(folder: Path, side: str) -> dict[str, Any]:
    """Counts of the first round."""
    report = output(folder, "all", side, 0) / "filter" / "report.json"
    return json.loads(report.read_text())["counts"]


if __name__ == "__main__":
    main()
