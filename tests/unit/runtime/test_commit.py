from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.api.layout import Layout
from diht_k8s.api.reports import Committed
from diht_k8s.api.run import Stage
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.commit import (
    Count,
    artefact,
    commit,
    find_committed,
    find_started,
    read_committed,
    require_equal,
    start,
)
from tests.folders import flat

CONFIG = {"config": {"minComplexity": 2}, "inputs": {"a": "1"}, "seed": 0}
OTHER = {"config": {"minComplexity": 3}, "inputs": {"a": "1"}, "seed": 0}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return flat(tmp_path / "out")


@pytest.fixture
def storage() -> Storage:
    return Storage()


def committed(
    storage: Storage, layout: Layout, content: bytes = b"{}", before: Committed | None = None, kept: int = 1
) -> Committed:
    storage.write_bytes(layout.report(Stage.FILTER), content)
    report = artefact(storage, layout, Stage.FILTER, "report.json")
    return commit(storage, layout, Stage.FILTER, CONFIG, [report], {"kept": kept}, before)


@pytest.mark.parametrize("known", [True, False], ids=["no marker", "no folder"])
def test_nothing_is_committed_at_first(storage: Storage, layout: Layout, known: bool) -> None:
    layout = layout if known else Layout(layout.output)
    assert find_committed(storage, layout, Stage.FILTER) is None
    assert find_started(storage, layout, Stage.FILTER) is None
    with pytest.raises(UserError, match=r"run the stage filter first|the stage filter of this run has not begun"):
        read_committed(storage, layout, Stage.FILTER)


def test_second_start_of_a_folder_takes_what_the_first_one_reads(storage: Storage, layout: Layout) -> None:
    first = start(storage, layout, Stage.FILTER, CONFIG, {"scores": "filter/a"})
    assert start(storage, layout, Stage.FILTER, CONFIG, {"scores": "filter/b"}) == first
    assert first.reads == {"scores": "filter/a"}


def test_another_configuration_behind_equal_digits_is_refused(storage: Storage, layout: Layout) -> None:
    start(storage, layout, Stage.FILTER, CONFIG, {})
    with pytest.raises(DataError, match=r"filter belongs to another configuration: choose another data.output"):
        start(storage, layout, Stage.FILTER, OTHER, {})


def test_second_commit_of_a_folder_takes_the_first_ones_marker(storage: Storage, layout: Layout) -> None:
    first = committed(storage, layout)
    assert committed(storage, layout, kept=2) == first == read_committed(storage, layout, Stage.FILTER)
    assert (first.inputs, [item.path for item in first.artefacts]) == ({"a": "1"}, ["report.json"])


def test_takedown_changes_the_outputs_digest_and_not_its_identity(storage: Storage, layout: Layout) -> None:
    first = committed(storage, layout)
    storage.remove(layout.committed(Stage.FILTER))
    second = committed(storage, layout, b"[]", first)
    assert first.output_sha256 == first.identity == second.identity != second.output_sha256
    assert (first.revision, second.revision) == (0, 1)


@pytest.mark.parametrize(("name", "find"), [("COMMITTED.json", find_committed), ("STARTED.json", find_started)])
def test_damaged_marker_is_a_data_error(
    storage: Storage, layout: Layout, name: str, find: Callable[[Storage, Layout, Stage], object]
) -> None:
    storage.write_bytes(f"{layout.stage(Stage.FILTER)}/{name}", b'{"schema_version": 1, "sta')
    with pytest.raises(DataError, match="is damaged: remove"):
        find(storage, layout, Stage.FILTER)


def test_equal_counts_are_accepted() -> None:
    require_equal("x", "do", Count(3, "rows"), Count(3, "samples"), Count(3, "lines"))


@pytest.mark.parametrize(("second", "third", "said"), [(4, 3, "4 samples"), (3, 2, "2 lines")])
def test_counts_that_differ_are_refused_with_both_numbers_and_names(second: int, third: int, said: str) -> None:
    with pytest.raises(DataError, match=f"x: 3 rows, but {said}: do"):
        require_equal("x", "do", Count(3, "rows"), Count(second, "samples"), Count(third, "lines"))
