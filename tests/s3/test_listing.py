"""Listing of sources and reading of ranges against each object store: few requests, the right version."""

from __future__ import annotations

import pytest

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.data.shards.samples import read_samples
from diht_k8s.data.shards.shard_index import index_of, read_range
from diht_k8s.data.shards.tar_writer import write_samples
from tests.s3.faults import proxy_before
from tests.s3.server import S3

pytestmark = pytest.mark.s3


def test_braces_are_matched_against_listings_of_a_thousand(store: S3) -> None:
    base = f"{store.base}/listed"
    plain = store.storage()
    for number in range(40):
        plain.write_bytes(f"{base}/{number:03}.tar", b"x" * number)
    with proxy_before(store.endpoint) as proxy:
        storage = store.storage(proxy.endpoint)
        found = storage.list_files([f"{base}/{{000..099}}.tar"])
        assert proxy.faults.counts["requests"] == 1
    assert [each.uri for each in found] == [f"{base}/{number:03}.tar" for number in range(40)]
    assert [each.size for each in found] == list(range(40))
    assert {each.identity for each in found} == {plain.identity(each.uri) for each in found}
    assert store.storage().list_files([f"{base}/*.tar"]) == found
    assert plain.list_files([f"{base}/{{000..005}}.tar"]) == found[:6], "few names are asked for one by one"


def test_a_folder_among_the_names_of_a_range_is_refused(store: S3) -> None:
    base = f"{store.base}/folders"
    storage = store.storage()
    for number in range(20):
        storage.write_bytes(f"{base}/{number:03}/x.tar" if number == 7 else f"{base}/{number:03}", b"x")
    with pytest.raises(UserError, match="007 is a folder, not a shard"):
        storage.list_files([f"{base}/{{000..019}}"])


KEYS = ("a b.tar", "ü/日本.tar", "p%41q.tar", "x+y&z=1.tar", "h#i.tar", "~a'b.tar", "e .tar")


def test_a_key_is_what_it_is_spelled(store: S3) -> None:
    storage = store.storage()
    uris = [f"{store.base}/spelled/{key}" for key in KEYS]
    for uri in uris:
        storage.write_bytes(uri, uri.encode())
    assert [storage.read_bytes(uri) for uri in uris] == [uri.encode() for uri in uris]
    assert [each.identity for each in storage.list_files(uris)] == [storage.identity(uri) for uri in uris]
    assert storage.files(f"{store.base}/spelled") == sorted(KEYS)
    for uri in uris:
        storage.remove(uri)
    assert not any(map(storage.exists, uris))


@pytest.mark.parametrize(
    ("pattern", "refused"),
    [("*.tar", ""), ("**/*.tar", ""), ("*/*.tar", "refused(%2F|/)b")],
    ids=["all", "deep", "one"],
)
def test_a_folder_that_may_not_be_listed_is_no_empty_one(store: S3, pattern: str, refused: str) -> None:
    base = f"{store.base}/refused"
    plain = store.storage()
    for name in ("0.tar", "a/1.tar", "b/2.tar"):
        plain.write_bytes(f"{base}/{name}", b"x")
    assert plain.expand([f"{base}/{pattern}"])
    with proxy_before(store.endpoint) as proxy:
        storage = store.storage(proxy.endpoint)
        proxy.set(forbidden=True, only=refused)
        with pytest.raises(UserError, match=r"cannot list .*(refuses it|check rights)"):
            storage.expand([f"{base}/{pattern}"])
        with pytest.raises(UserError, match=r"cannot read .*(refuses it|check rights)"):
            storage.exists(f"{base}/b/2.tar")


def test_a_range_of_samples_is_one_request_for_one_version(store: S3) -> None:
    uri = f"{store.base}/ranges/s.tar"
    plain = store.storage()
    pairs = [(f"{number:04}", {"jpg": bytes([number]) * 900, "txt": b"a dog"}) for number in range(20)]
    write_samples(plain, uri, pairs)
    index, samples = index_of(plain, uri), list(read_samples(plain, uri))
    with proxy_before(store.endpoint) as proxy:
        storage = store.storage(proxy.endpoint)
        assert list(read_range(storage, uri, index, 5, 9)) == samples[5:9]
        assert proxy.faults.counts["requests"] == 1
        proxy.set(cut=0.5, short=0.5, refuse=0.3, seed=3)
        assert list(read_range(storage, uri, index, 0, 20)) == samples
    write_samples(plain, uri, pairs[::-1])
    with pytest.raises(DataError, match=r"s\.tar was replaced"):
        list(read_range(plain, uri, index, 5, 9))
