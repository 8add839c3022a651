from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from diht_k8s.api.errors import RetryableError, UserError
from diht_k8s.data.shards.listing import copied_without_times, differ_by_time_alone
from diht_k8s.data.shards.storage import Storage


@pytest.fixture
def storage() -> Storage:
    return Storage()


def test_patterns_are_expanded_in_order(tmp_path: Path, storage: Storage) -> None:
    for name in ("a/2.tar", "a/1.tar", "b/00.tar", "b/01.tar"):
        storage.write_bytes(str(tmp_path / name), b"x")
    found = storage.expand([f"{tmp_path}/b/{{01..00}}.tar", f"file://{tmp_path}/a/*.tar"])
    assert [Path(uri).relative_to(tmp_path).as_posix() for uri in found] == [
        "b/01.tar",
        "b/00.tar",
        "a/1.tar",
        "a/2.tar",
    ]


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("{0..4}.tar", "3 of the 5 shards of {0..4}.tar do not exist and are left out, the first is 1.tar"),
        ("{0,2}.tar", ""),
        ("{0..9}*.tar", ""),
    ],
)
def test_shards_of_a_range_that_do_not_exist_are_told(
    tmp_path: Path,
    storage: Storage,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    pattern: str,
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("0.tar", "2.tar"):
        storage.write_bytes(name, b"x")
    assert len(storage.expand([pattern])) == 2
    assert capsys.readouterr().err == (f"diht: {told}\n" if told else "")


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["missing-*.tar"], r"no shard matches missing-\*\.tar"),
        (["x.tar", "y.tar"], r"no shard matches y\.tar"),
        (["x.tar", "*.tar"], "matched twice"),
        (["x.tar", "{0..9999999999999999999999}.tar"], "names, at most 1,000,000 are allowed"),
        (["{a,b.tar"], "not balanced"),
    ],
)
def test_pattern_that_matches_nothing_or_twice_is_a_user_error(
    tmp_path: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch, patterns: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.tar").write_bytes(b"x")
    with pytest.raises(UserError, match=message):
        storage.expand(patterns)


@pytest.mark.parametrize("other", ["x.tar", "./x.tar", "*.tar", "../{here}/x.tar"])
def test_file_that_two_sources_match_is_a_user_error(
    tmp_path: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("x.tar", "y.tar"):
        (tmp_path / name).write_bytes(b"x")
    assert [len(group) for group in storage.list_sources([["x.tar"], ["y.tar"]])] == [1, 1]
    with pytest.raises(UserError, match=r"x\.tar is matched twice"):
        storage.list_sources([["x.tar"], [other.format(here=tmp_path.name)]])


def test_write_that_fails_leaves_the_old_content_and_no_other_file(tmp_path: Path, storage: Storage) -> None:
    uri = str(tmp_path / "f")
    storage.write_bytes(uri, b"old")

    def fail() -> None:
        with storage.writer(uri) as file:
            file.write(b"new, half")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        fail()
    assert storage.read_bytes(uri) == b"old"
    assert os.listdir(tmp_path) == ["f"]


def test_create_writes_once(tmp_path: Path, storage: Storage) -> None:
    uri = str(tmp_path / "deep" / "f")
    assert storage.create(uri, b"first")
    assert not storage.create(uri, b"second")
    assert storage.read_bytes(uri) == b"first"
    assert storage.names(str(tmp_path / "deep")) == ["f"]
    assert (tmp_path / "deep" / "f").stat().st_mode & 0o777 == 0o644


def test_create_below_a_file_is_an_error_and_no_file_that_exists(tmp_path: Path, storage: Storage) -> None:
    (tmp_path / "folder").write_bytes(b"a file in its place")
    with pytest.raises(UserError, match="Not a directory"):
        storage.create(str(tmp_path / "folder" / "f"), b"")


def test_names_folders_exists_size_remove(tmp_path: Path, storage: Storage) -> None:
    for name in ("b", "a", "sub/c"):
        storage.write_bytes(str(tmp_path / name), b"xyz")
    (tmp_path / ".a.123.tmp").write_bytes(b"left by a killed writer")
    assert storage.names(str(tmp_path)) == ["a", "b"]
    assert storage.folders(str(tmp_path)) == ["sub"]
    assert storage.names(str(tmp_path / "nowhere")) == storage.folders(str(tmp_path / "nowhere")) == []
    assert storage.size(str(tmp_path / "a")) == 3
    storage.remove(str(tmp_path / "sub"))
    storage.remove(str(tmp_path / "sub"))
    assert not storage.exists(str(tmp_path / "sub"))


def test_sizes_are_those_of_all_files_below_and_none_of_what_a_link_leads_to(tmp_path: Path, storage: Storage) -> None:
    (tmp_path / "large").write_bytes(b"x" * 1000)
    (tmp_path / "folder/deeper").mkdir(parents=True)
    (tmp_path / "folder/deeper/a").write_bytes(b"abc")
    (tmp_path / "folder/.b.abcd1234.tmp").write_bytes(b"x")
    (tmp_path / "folder/file").symlink_to("../large")
    (tmp_path / "folder/others").symlink_to("..")
    assert storage.sizes(f"{tmp_path}/folder") == {".b.abcd1234.tmp": 1, "deeper/a": 3, "file": 0, "others": 0}
    assert storage.sizes(f"{tmp_path}/absent") == {}


def test_named_files_are_removed_and_others_keep_their_folder(tmp_path: Path, storage: Storage) -> None:
    for name in (
        "claims/a.json",
        "claims/.b.json.abcd1234.tmp",
        "claims/notes.txt",
        "claims/deeper/c.json",
        "rows/a.json",
    ):
        storage.write_bytes(f"{tmp_path}/{name}", b"x")
    storage.remove_named(f"{tmp_path}/claims", "*.json", "*.bin")
    assert storage.files(f"{tmp_path}/claims") == ["deeper/c.json", "notes.txt"]
    storage.remove_named(f"{tmp_path}/rows", "*.json")
    assert not (tmp_path / "rows").exists()
    storage.remove_named(f"{tmp_path}/absent", "*.json")


def test_identity_changes_with_the_content(tmp_path: Path, storage: Storage) -> None:
    uri = str(tmp_path / "f")
    storage.write_bytes(uri, b"one")
    before = storage.identity(uri)
    assert storage.identity(uri) == before
    storage.write_bytes(uri, b"two")
    os.utime(uri, ns=(1, 1))
    assert storage.identity(uri) != before


def test_missing_file_is_a_user_error(tmp_path: Path, storage: Storage) -> None:
    for read in (storage.read_bytes, storage.size, storage.identity):
        with pytest.raises(UserError, match="does not exist: check the path"):
            read(str(tmp_path / "missing"))


def test_text_that_is_no_utf8_is_a_user_error(tmp_path: Path, storage: Storage) -> None:
    (tmp_path / "f").write_bytes(b"\xff")
    with pytest.raises(UserError, match="not UTF-8"):
        storage.read_text(str(tmp_path / "f"))


@pytest.mark.parametrize("uri", ["http://x/y", "gcs://x/y", "memory://x"])
def test_other_schemes_are_refused(storage: Storage, uri: str) -> None:
    with pytest.raises(UserError, match="is not allowed"):
        storage.read_bytes(uri)


def test_folder_in_place_of_a_file_is_a_user_error(tmp_path: Path, storage: Storage) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(UserError, match="cannot write"):
        storage.write_bytes(str(tmp_path / "file" / "below"), b"x")
    with pytest.raises(UserError, match="cannot read"):
        storage.read_bytes(str(tmp_path))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_full_disk_is_retryable_and_leaves_nothing(tmp_path: Path, storage: Storage) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], check=True)
    try:
        with pytest.raises(RetryableError, match="the disk is full: free space and start again"):
            storage.write_bytes(str(tmp_path / "f"), b"x" * 1_000_000)
        assert os.listdir(tmp_path) == []
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_read_only_file_system_is_a_user_error(tmp_path: Path, storage: Storage) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(tmp_path)], check=True)
    try:
        with pytest.raises(UserError, match=r"read-only: choose another place"):
            storage.write_bytes(str(tmp_path / "f"), b"x")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize("pattern", ["pool/*.tar", "*/*.tar", "**/*.tar"])
def test_folder_of_a_disk_that_cannot_be_listed_is_no_empty_one(
    tmp_path: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    for name in ("other/a.tar", "pool/a.tar", "lost+found/a.tar"):
        storage.write_bytes(str(tmp_path / name), b"x")
    assert f"{tmp_path}/pool/a.tar" in storage.expand([f"{tmp_path}/{pattern}"])
    scandir = os.scandir

    def refused(path: str) -> object:
        if str(path).rstrip("/").endswith(names):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scandir(path)

    names: tuple[str, ...] = ("lost+found",)
    monkeypatch.setattr(os, "scandir", refused)
    assert f"{tmp_path}/pool/a.tar" in storage.expand([f"{tmp_path}/{pattern}"])
    names = ("pool", "lost+found")
    with pytest.raises(UserError, match=r"cannot list .*Permission denied \(.*/pool\)"):
        storage.expand([f"{tmp_path}/{pattern}"])
    with pytest.raises(UserError, match=r"cannot list .*Permission denied \(.*/pool\)"):
        storage.files(str(tmp_path))


@pytest.mark.parametrize(
    ("before", "now", "by_time_alone"),
    [
        ("100-17", "100-18", True),
        ("100-17", "100-17", False),
        ("100-17", "101-18", False),
        ("100-0f343b09", "100-9e107d9d", False),
        ("100-17", "100-9e107d9d", False),
    ],
    ids=["time", "nothing", "size", "contents on S3", "moved to S3"],
)
def test_time_alone(before: str, now: str, by_time_alone: bool) -> None:
    assert differ_by_time_alone(before, now) is by_time_alone


@pytest.mark.parametrize(
    ("versions", "says"),
    [
        ({"a": ("1-1", "1-2"), "b": ("2-1", "2-1"), "c": ("3-1", "3-9")}, "2 of 3 shards "),
        ({"a": ("1-1", "1-1")}, None),
        ({"a": ("1-1", "1-2"), "b": ("2-1", "3-1")}, None),
    ],
    ids=["times", "none", "one by its size"],
)
def test_line(versions: dict[str, tuple[str, str]], says: str | None) -> None:
    line = copied_without_times((name, *pair) for name, pair in versions.items())
    assert (line is None) is (says is None)
    assert line is None or (line.startswith(says or "") and "(a is the first)" in line)
