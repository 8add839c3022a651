"""The stage label against each object store, its teacher's weights there too, gives what it gives from disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.shards.parquet import read_table
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.run_folder import run_layout
from diht_k8s.runtime.stage import run_stage
from diht_k8s.stages.label import stage
from diht_k8s.stages.label.features import read_safetensors
from tests.folders import located, planted
from tests.recipe.label.conftest import make_kept, one_thread, teacher_weights  # noqa: F401 (fixtures)
from tests.s3.server import S3

pytestmark = pytest.mark.s3
OUTPUT = "label-run"


def there(run: DihtRun, store: S3) -> DihtRun:
    """The same run with everything on the server."""
    document = run.model_dump(by_alias=True, mode="json", exclude_none=True)
    document["spec"]["storage"] = [store.rule]
    document["spec"]["data"]["output"] = f"{store.base}/{OUTPUT}"
    document["spec"]["label"]["teacher"]["weights"] = f"{store.base}/weights.safetensors"
    return DihtRun.model_validate(document)


def test_labels_when_all_lies_on_a_store_then_labels_and_heads_are_those_from_disk(
    store: S3,
    make_kept: Callable[..., Any],  # noqa: F811 (the fixture)
) -> None:
    kept = make_kept(shards=2).write()
    run = kept.run()
    remote = there(run, store)
    storage = Storage(remote.spec.storage)
    storage.write_bytes(f"{store.base}/weights.safetensors", Path(run.spec.label.teacher.weights).read_bytes())
    for path in sorted(kept.folder.rglob("*")):
        if path.is_file():
            storage.write_bytes(f"{store.base}/{OUTPUT}/{path.relative_to(kept.folder)}", path.read_bytes())
    planted(remote, Stage.FILTER)
    here, far = run_stage(stage, run, Stage.LABEL), run_stage(stage, remote, Stage.LABEL)
    assert here is not None
    assert far is not None
    layout, local = run_layout(remote, storage), located(kept.folder)
    for shard in ("shapes-00", "shapes-01"):  # the headers name the weights' URI, the rows do not
        theirs, ours = (read_table(Storage(remote.spec.storage), each.labels(shard))[0] for each in (layout, local))
        assert theirs.equals(ours)
    theirs, ours = (read_safetensors(storage, each.teacher_heads)[0] for each in (layout, local))
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)
    assert far.summary["labelled"] == here.summary["labelled"] == 80
