"""Labels with teacher, input and output on each object store, which refuses, cuts and shortens: those from disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from diht_k8s.api.errors import DihtError, ExitCode
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.feature_files import read_tensors
from diht_k8s.data.shards.parquet import read_table
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.run_folder import run_layout
from diht_k8s.runtime.stage import run_stage
from diht_k8s.stages.label import stage
from tests.folders import located, planted
from tests.recipe.conftest import one_thread  # noqa: F401  # a fixture
from tests.recipe.label.conftest import make_kept, teacher_weights  # noqa: F401  # fixtures
from tests.s3.faults import Proxy, proxy_before
from tests.s3.server import S3

pytestmark = [pytest.mark.s3, pytest.mark.timeout(600)]
Make = Callable[..., Any]


def on_server(run: DihtRun, store: S3, proxy: Proxy) -> DihtRun:
    """The same run with its teacher and its output behind the proxy."""
    document = run.model_dump(by_alias=True, mode="json", exclude_none=True)
    document["spec"]["data"]["output"] = f"{store.base}/label"
    document["spec"]["label"]["teacher"]["weights"] = f"{store.base}/weights.safetensors"
    document["spec"]["storage"] = [{**store.rule, "endpointURL": proxy.endpoint}]
    return DihtRun.model_validate(document)


def test_labels_when_the_server_disturbs_then_those_from_disk(store: S3, make_kept: Make) -> None:  # noqa: F811
    kept = make_kept(shards=2, pairs=24).write()
    run, storage = kept.run(), store.storage()
    storage.write_bytes(f"{store.base}/weights.safetensors", Path(run.spec.label.teacher.weights).read_bytes())
    for path in (kept.folder / "filter").rglob("*"):
        if path.is_file():
            storage.write_bytes(f"{store.base}/label/{path.relative_to(kept.folder)}", path.read_bytes())
    with proxy_before(store.endpoint) as proxy:
        counts = proxy.set(refuse=0.15, cut=0.2, short=0.2, seed=1).counts
        remote = on_server(run, store, proxy)
        planted(remote, Stage.FILTER)
        far = run_stage(stage, remote, Stage.LABEL)
    here = run_stage(stage, run, Stage.LABEL)
    assert counts["refused"] > 0
    assert counts["cut"] + counts["short"] > 0
    assert far is not None
    assert here is not None
    assert far.summary["labelled"] == here.summary["labelled"] > 0
    layout, local = run_layout(remote, storage), located(kept.folder)
    for shard in ("shapes-00", "shapes-01"):  # the headers name the weights' URI, the rows do not
        theirs, ours = (
            read_table(where, each.labels(shard))[0] for where, each in ((storage, layout), (Storage(), local))
        )
        assert theirs.equals(ours)
    theirs, ours = (
        read_tensors(*each)[0] for each in ((storage, layout.teacher_heads), (Storage(), local.teacher_heads))
    )
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)


def test_label_when_the_credentials_expire_then_retryable_in_one_line(store: S3, make_kept: Make) -> None:  # noqa: F811
    with proxy_before(store.endpoint) as proxy:
        proxy.set(expired=True)
        with pytest.raises(DihtError, match="the credentials have expired") as raised:
            run_stage(stage, on_server(make_kept().run(), store, proxy), Stage.LABEL)
    assert raised.value.exit_code == ExitCode.RETRYABLE
