from __future__ import annotations

from pathlib import Path

import pytest

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.api.layout import Layout
from diht_k8s.api.run import Stage
from diht_k8s.recipe.runtime.commit import artefact, begin, commit, find_committed, read_committed
from diht_k8s.recipe.shards.storage import Storage

CONFIG = {"config": {"minComplexity": 2}, "inputs": {"a": "1"}, "seed": 0}
OTHER = {"config": {"minComplexity": 3}, "inputs": {"a": "1"}, "seed": 0}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(str(tmp_path / "out"))


@pytest.fixture
def storage() -> Storage:
    return Storage()


def committed(storage: Storage, layout: Layout) -> None:
    storage.write_bytes(layout.report(Stage.FILTER), b"{}")
    commit(storage, layout, Stage.FILTER, CONFIG, [artefact(storage, layout, Stage.FILTER, "report.json")], {"kept": 1})


def test_nothing_is_committed_at_first(storage: Storage, layout: Layout) -> None:
    assert find_committed(storage, layout, Stage.FILTER) is None
    with pytest.raises(UserError, match="run the stage filter first"):
        read_committed(storage, layout, Stage.FILTER)


def test_a_stage_resumes_under_the_configuration_that_began_it(storage: Storage, layout: Layout) -> None:
    assert begin(storage, layout, Stage.FILTER, CONFIG) is None
    assert begin(storage, layout, Stage.FILTER, CONFIG) is None


def test_a_committed_stage_is_cached(storage: Storage, layout: Layout) -> None:
    committed(storage, layout)
    found = begin(storage, layout, Stage.FILTER, CONFIG)
    assert found is not None
    assert found.summary == {"kept": 1}
    assert found.inputs == {"a": "1"}
    assert [item.path for item in found.artefacts] == ["report.json"]


@pytest.mark.parametrize("finished", [False, True])
def test_another_configuration_is_refused_with_the_fields_that_differ(
    storage: Storage, layout: Layout, finished: bool
) -> None:
    begin(storage, layout, Stage.FILTER, CONFIG)
    if finished:
        committed(storage, layout)
    with pytest.raises(
        UserError, match=r"another configuration \(config.minComplexity: 2 -> 3\).*another data.output.*--replace"
    ):
        begin(storage, layout, Stage.FILTER, OTHER)


def test_output_digest_depends_on_the_content(storage: Storage, layout: Layout) -> None:
    committed(storage, layout)
    before = read_committed(storage, layout, Stage.FILTER).output_sha256
    storage.write_bytes(layout.report(Stage.FILTER), b"[]")
    commit(storage, layout, Stage.FILTER, CONFIG, [artefact(storage, layout, Stage.FILTER, "report.json")], {})
    assert read_committed(storage, layout, Stage.FILTER).output_sha256 != before


def test_damaged_marker_is_a_data_error(storage: Storage, layout: Layout) -> None:
    storage.write_bytes(layout.committed(Stage.FILTER), b'{"schema_version": 1, "sta')
    with pytest.raises(DataError, match="is damaged: remove"):
        find_committed(storage, layout, Stage.FILTER)
