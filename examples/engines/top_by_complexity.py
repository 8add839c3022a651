"""Keep the share of a pool with the most complex captions, by Ray Data over the scores of a finished filter.

A rule over the whole pool needs no second filter: scores are a table (docs/reference/scores.md). Ray counts the
complexities of all shards, the threshold follows, and Ray writes one keep list for each shard.
`diht_k8s.open_pairs(RUN, keep_lists=FOLDER)` then reads those pairs from the raw shards.

    pip install -r examples/engines/requirements.txt
    python examples/engines/top_by_complexity.py RUN.yaml --share 0.3 --lists lists
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow.parquet as pq
import ray  # pyright: ignore[reportMissingImports]

from diht_k8s.api.data import StorageRule
from diht_k8s.api.documents import load, read_text
from diht_k8s.api.layout import Layout, join
from diht_k8s.data.shards.pairs import KeepListRow, write_keep_list
from diht_k8s.data.shards.sources import input_shards
from diht_k8s.data.shards.storage import Storage


def threshold(counts: Mapping[int, int], share: float) -> int:
    """The smallest complexity that at most a share of the pairs reaches; the largest one where each is reached by
    more.
    """
    total, above = sum(counts.values()), 0
    for complexity in sorted(counts, reverse=True):
        above += counts[complexity]
        if above > share * total:
            return complexity + 1 if above > counts[complexity] else complexity
    return 0


def count(task: dict[str, Any]) -> dict[str, list[int]]:
    """How many readable pairs of one shard have each complexity."""
    columns = pq.read_table(task["scores"], columns=["complexity", "reason"]).to_pydict()
    rows = zip(columns["complexity"], columns["reason"], strict=True)
    found = Counter(complexity for complexity, reason in rows if not reason.startswith("bad:"))
    return {"complexity": list(found), "pairs": list(found.values())}


def select(task: dict[str, Any]) -> dict[str, int]:
    """Write the keep list of one shard; its scores have one row for each sample, in order."""
    columns = pq.read_table(task["scores"], columns=["uid", "complexity", "reason"]).to_pydict()
    rows = enumerate(zip(columns["uid"], columns["complexity"], columns["reason"], strict=True))
    least = task["minimum"]
    listed = [KeepListRow(row, uid) for row, (uid, value, why) in rows if value >= least and not why.startswith("bad:")]
    storage = Storage([StorageRule.model_validate_json(rule) for rule in task["storage"]])
    write_keep_list(storage, task["list"], listed)
    return {"pairs": len(listed)}


def main() -> None:
    """Print the threshold and the number of pairs, as JSON."""
    parser = argparse.ArgumentParser(description="The most complex captions of a pool, as keep lists.")
    parser.add_argument("run", help="document of a run whose filter is finished")
    parser.add_argument("--share", type=float, default=0.3, help="of the readable pairs, at most")
    parser.add_argument("--lists", required=True, help="folder for the keep lists")
    arguments = parser.parse_args()
    run = load(read_text(arguments.run), name=arguments.run)
    storage, layout = Storage(run.spec.storage), Layout(run.spec.data.output)
    shards = input_shards(run.spec, storage)
    ray.init(include_dashboard=False, log_to_driver=False)
    scores = ray.data.from_items([{"scores": layout.scores(shard.name)} for shard in shards])
    counts = Counter[int]()
    for row in scores.map(count).iter_rows():
        counts.update(dict(zip(row["complexity"], row["pairs"], strict=True)))
    minimum = threshold(counts, arguments.share)
    tasks = [
        {
            "scores": layout.scores(shard.name),
            "list": join(arguments.lists, f"{shard.name}.parquet"),
            "minimum": minimum,
            "storage": [rule.model_dump_json(by_alias=True) for rule in run.spec.storage],
        }
        for shard in shards
    ]
    print(json.dumps({"minimum": minimum, "pairs": int(ray.data.from_items(tasks).map(select).sum("pairs"))}))


if __name__ == "__main__":
    main()
