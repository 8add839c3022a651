"""--replace on a real S3 server removes what the stage has written and leaves the user's objects."""

from __future__ import annotations

import pytest

from diht_k8s.api.run import Stage
from diht_k8s.cli.cached_stages import compare_stages
from diht_k8s.recipe.shards.storage import Storage
from tests.recipe.filter.shards import CAPTIONS, filter_with, pair, run_of, tar_of
from tests.s3.documents import with_storage
from tests.s3.server import S3

pytestmark = pytest.mark.s3


def test_replace_leaves_raw_shards_and_unrelated_objects(s3: S3) -> None:
    out = f"s3://{s3.bucket}/replace"
    members = [member for number, caption in enumerate(CAPTIONS) for member in pair(str(number), caption)]
    storage = Storage(with_storage(run_of(out, f"{out}/raw/*.tar"), s3.rule).spec.storage)
    storage.write_bytes(f"{out}/raw/0.tar", tar_of(members))
    mine = ["filter/kept/mine.tar", "raw/0.tar", "train/bench.tar"]
    for name in mine[:1] + mine[2:]:
        storage.write_bytes(f"{out}/{name}", b"x")
    filter_with(with_storage(run_of(out, f"{out}/raw/*.tar"), s3.rule))
    changed = with_storage(run_of(out, f"{out}/raw/*.tar", {"minComplexity": 3}), s3.rule)
    found = compare_stages(changed, Stage.FILTER, replace=True)[0]
    assert (found.replaced, found.left) == (["filter"], [f"{out}/filter/kept/mine.tar"])
    assert storage.files(out) == [
        "filter/kept/mine.tar",
        "filter/objects/kept.json",
        "filter/scores/web-0.parquet",
        *mine[1:],
    ]
