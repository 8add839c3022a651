from __future__ import annotations

from pathlib import Path

import pytest

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.api.hashing import sha256_of
from diht_k8s.api.layout import Layout
from diht_k8s.api.run import Stage
from diht_k8s.recipe.runtime.commit import artefact, begin, commit, find_committed, read_committed
from diht_k8s.recipe.runtime.ownership import StageStorage
from diht_k8s.recipe.runtime.started import newest_started, require_started
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


def writing(layout: Layout, writer: str = "worker-0") -> StageStorage:
    """The storage of a process that runs the filter under `CONFIG`."""

    def fence() -> None:
        require_started(Storage(), layout, Stage.FILTER, sha256_of(CONFIG))

    return StageStorage([], layout.stage(Stage.FILTER), writer=writer, fence=fence)


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
    else:
        writing(layout).write_bytes(layout.kept("web-0"), b"tar")
    with pytest.raises(
        UserError, match=r"another configuration \(config.minComplexity: 2 -> 3\).*another data.output.*--replace"
    ):
        begin(storage, layout, Stage.FILTER, OTHER)


@pytest.mark.parametrize(
    "before", [[], ["claims/web-0.json", "epochs/000001", "preflight.json"]], ids=["nothing", "only claims"]
)
def test_start_without_output_never_blocks_another_configuration(layout: Layout, before: list[str]) -> None:
    storage = Storage()
    begin(storage, layout, Stage.FILTER, CONFIG)
    for path in before:
        writing(layout).create(f"{layout.stage(Stage.FILTER)}/{path}", b"{}")
    Storage().write_bytes(f"{layout.stage(Stage.FILTER)}/notes.txt", b"the user's")
    assert begin(storage, layout, Stage.FILTER, OTHER) is None
    assert begin(storage, layout, Stage.FILTER, OTHER) is None
    newest = newest_started(storage, layout, Stage.FILTER)
    assert newest is not None
    assert (newest.number, newest.config) == (2, OTHER)
    assert begin(storage, layout, Stage.FILTER, CONFIG) is None, "and back"


def test_refused_configuration_is_told_what_replace_removes_and_leaves(storage: Storage, layout: Layout) -> None:
    begin(storage, layout, Stage.FILTER, CONFIG)
    writer = writing(layout)
    for uri in (layout.kept("web-0"), layout.kept("web-1"), layout.scores("web-0"), layout.report(Stage.FILTER)):
        writer.write_bytes(uri, b"x")
    storage.write_bytes(layout.kept("mine"), b"tar")
    with pytest.raises(UserError, match=r"removes 3 files of filter \(kept/ 2, report.json\), and leaves 1 that"):
        begin(storage, layout, Stage.FILTER, OTHER)


def test_owner_that_lost_its_folder_stops_before_it_writes_and_before_it_commits(layout: Layout) -> None:
    storage, owner = Storage(), writing(layout)
    begin(storage, layout, Stage.FILTER, CONFIG)
    begin(storage, layout, Stage.FILTER, OTHER)
    with pytest.raises(UserError, match="another configuration has taken over"):
        owner.write_bytes(layout.kept("web-0"), b"tar")
    assert not storage.exists(layout.kept("web-0"))
    with pytest.raises(UserError, match="another configuration has taken over"):
        commit(storage, layout, Stage.FILTER, CONFIG, [], {})


def test_only_one_of_two_starters_takes_a_folder_over(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, third = Storage(), {**CONFIG, "seed": 1}
    begin(storage, layout, Stage.FILTER, CONFIG)
    create = Storage.create

    def overtaken(self: Storage, uri: str, data: bytes) -> bool:
        monkeypatch.setattr(Storage, "create", create)
        assert begin(Storage(), layout, Stage.FILTER, third) is None
        writer = StageStorage([], layout.stage(Stage.FILTER), writer="third")
        writer.write_bytes(layout.kept("web-0"), b"tar")
        return self.create(uri, data)

    monkeypatch.setattr(Storage, "create", overtaken)
    with pytest.raises(UserError, match=r"another configuration \(config.minComplexity: 2 -> 3; seed: 1 -> 0\)"):
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
