"""An object store as folders: what a server refuses is not absent, and folder objects are names of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import IO, Any

import pytest
import requests

from diht_k8s.api.errors import DihtError, RetryableError, UserError
from diht_k8s.data.shards.object_store import Listed, ObjectStore, refusal
from diht_k8s.data.shards.storage import Storage

BASE = "gs://bucket"


class Store(ObjectStore):
    """Objects of one bucket in memory; what has a refused prefix raises its error."""

    def __init__(self, *keys: str) -> None:
        super().__init__(requests.Session())
        self.objects = dict.fromkeys(keys, b"x")
        self.refused: dict[str, Exception] = {}

    def listed(self, bucket: str, prefix: str, *, deep: bool) -> Iterator[Listed]:
        self._check(prefix)
        folders = set[str]()
        for key in sorted(key for key in self.objects if key.startswith(prefix)):
            name, slash, _ = key.removeprefix(prefix).partition("/")
            if deep or not slash:
                yield Listed(key, len(self.objects[key]), "g1")
            else:
                folders.add(f"{prefix}{name}/")
        yield from (Listed(each, None) for each in sorted(folders))

    def about(self, bucket: str, key: str) -> Listed | None:
        self._check(key)
        return Listed(key, len(self.objects[key]), "g1") if key in self.objects else None

    def write_object(self, bucket: str, key: str, file: IO[bytes], size: int, *, create: bool) -> None:
        self._check(key)
        self.objects[key] = file.read()

    def remove_object(self, bucket: str, key: str) -> None:
        self._check(key)
        if self.objects.pop(key, None) is None:
            raise FileNotFoundError(key)

    def _request(self, bucket: str, key: str, version: str) -> Any:
        raise NotImplementedError

    def _version(self, headers: Any) -> str:
        raise NotImplementedError

    def _check(self, key: str) -> None:
        for prefix, error in self.refused.items():
            if key.startswith(prefix):
                raise error


Make = Callable[..., tuple[Store, Storage]]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Make:
    """A bucket with some keys, and the storage that reads it."""

    def made(*keys: str) -> tuple[Store, Storage]:
        store = Store(*keys)
        monkeypatch.setattr("diht_k8s.data.shards.storage._cloud", lambda *_: store)
        return store, Storage()

    return made


REFUSALS: dict[str, tuple[Exception, type[DihtError]]] = {
    "expired": (refusal(401, "", "HeadObject"), RetryableError),
    "busy": (refusal(503, "SlowDown", "HeadObject"), RetryableError),
    "forbidden": (refusal(403, "", "HeadObject"), UserError),
    "no connection": (requests.ConnectionError("reset"), RetryableError),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_object_of_which_the_server_does_not_tell_is_not_called_absent(make: Make, kind: str) -> None:
    store, storage = make("run/COMMITTED.json")
    assert storage.exists(f"{BASE}/run/COMMITTED.json")
    assert storage.exists(f"{BASE}/run")
    assert not storage.exists(f"{BASE}/run/STARTED.json")
    store.refused["run"], raises = REFUSALS[kind]
    with pytest.raises(raises, match="cannot read gs://bucket/run/COMMITTED"):
        storage.exists(f"{BASE}/run/COMMITTED.json")


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside a file of its name"])
def test_folder_goes_as_a_whole_with_its_folder_objects_and_nothing_else(make: Make, beside: bool) -> None:
    files = [f"pool/{number:03}" for number in range(100)]
    others = ["pool"] if beside else []
    store, storage = make("pool/", "pool/sub/", "pool/sub/a", *files, "pool2/a", *others)
    storage.remove(f"{BASE}/pool/")
    assert sorted(store.objects) == sorted(["pool2/a", *others])


def test_folder_that_others_remove_as_well_goes_as_a_whole(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    store, storage = make(*(f"pool/{number:03}" for number in range(100)))
    listed = store.listed

    def and_one_goes(bucket: str, prefix: str, *, deep: bool) -> Iterator[Listed]:
        yield from listed(bucket, prefix, deep=deep)
        store.objects.pop("pool/000", None)

    monkeypatch.setattr(store, "listed", and_one_goes)
    storage.remove(f"{BASE}/pool")
    assert store.objects == {}


def test_signature_of_a_url_is_in_no_message(make: Make) -> None:
    store, storage = make("run/a")
    store.refused["run"] = requests.ConnectionError(
        "Max retries exceeded with url: /run/a?sv=2023&sig=s3cret%3D&se=2030 (reset)"
    )
    with pytest.raises(RetryableError, match=r"cannot read gs://bucket/run/a: .*url: /run/a\?REDACTED \(reset\)"):
        storage.exists(f"{BASE}/run/a")


WAYS: dict[str, Callable[[Storage, str], object]] = {
    "exists": Storage.exists,
    "write": lambda storage, uri: storage.write_bytes(uri, b"x"),
    "create": lambda storage, uri: storage.create(uri, b"x"),
}


@pytest.mark.parametrize("way", WAYS)
def test_error_whose_cause_has_an_answer_of_http_is_told(make: Make, way: str) -> None:
    """As Azure's and Google's errors have; botocore's has a table in its place."""
    store, storage = make("run/a")
    answer, error = requests.Response(), OSError("another writer was faster")
    answer.status_code = 200  # true, as any of Azure's
    error.__cause__ = requests.HTTPError(response=answer)
    store.refused["run"] = error
    with pytest.raises(RetryableError, match=r"cannot (read|write) gs://bucket/run/a: another writer was faster"):
        WAYS[way](storage, f"{BASE}/run/a")


@pytest.mark.parametrize(
    ("says", "told", "kind"),
    [
        (
            "400 GET https://storage.example.org/o?alt=json: Bucket is a requester pays bucket",
            r"refuses it \(.*requester pays bucket\)",
            UserError,
        ),
        ("", "as where the credentials have expired", RetryableError),
        ("Operation returned an invalid status 'Bad Request'", "as where the credentials have expired", RetryableError),
    ],
)
def test_bad_request_is_told_by_its_reason(make: Make, says: str, told: str, kind: type[DihtError]) -> None:
    store, storage = make("run/a")
    store.refused["run"] = refusal(400, says, "GetObject")
    with pytest.raises(kind, match=told):
        storage.exists(f"{BASE}/run/a")


@pytest.mark.parametrize("uri", ["gs://bucket", "gs://bucket/"])
def test_bucket_is_no_object(make: Make, uri: str) -> None:
    _, storage = make("a")
    for read in (lambda: storage.read_bytes(uri), lambda: storage.read_range(uri, 0, 1)):
        with pytest.raises(UserError, match=f"{uri} is a bucket, not an object: give a key behind it"):
            read()
