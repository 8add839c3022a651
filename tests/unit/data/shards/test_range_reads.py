from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from diht_k8s.api.errors import DataError, RetryableError
from diht_k8s.data.shards.range_reads import MAX_BREAKS, RangeReader, Sink

CONTENT = bytes(range(200))


class Body:
    """Gives some bytes, then breaks off."""

    def __init__(self, content: bytes, *, breaks: bool) -> None:
        self._content, self._breaks = io.BytesIO(content), breaks

    def read(self, size: int) -> bytes:
        part = self._content.read(size)
        if not part and self._breaks:
            raise ConnectionError("reset by peer")
        return part

    def close(self) -> None:
        pass


class Server:
    """Answers with N bytes of a range and then breaks off, one N per request; complete answers after the last N."""

    def __init__(
        self, gives: list[int], *, etags: Iterator[str] | None = None, says: Mapping[str, Any] | None = None
    ) -> None:
        self.gives, self.ranges, self._etags, self._says = gives, list[str](), etags, says or {}

    def get_object(self, *, Bucket: str, Key: str, Range: str, IfMatch: str | None = None) -> Any:
        self.ranges.append(Range)
        begin, end = map(int, Range.removeprefix("bytes=").split("-"))
        end = min(end, len(CONTENT) - 1)
        body = Body(CONTENT[begin : end + 1], breaks=False)
        if self.gives:
            body = Body(CONTENT[begin : min(begin + self.gives.pop(0), end + 1)], breaks=True)
        return {
            "ContentRange": f"bytes {begin}-{end}/{len(CONTENT)}",
            "ETag": next(self._etags) if self._etags else '"a"',
            "Body": body,
            **self._says,
        }


def fetch(server: Server, pauses: list[float] | None = None) -> bytes:
    sink = Sink('"a"')
    RangeReader(server, sleep=(pauses if pauses is not None else []).append).fetch("bucket", "key", 20, 100, sink)
    assert (sink.total, sink.etag, sink.done) == (200, '"a"', 100)
    sink.put(None)
    return b"".join(iter(sink.next, None))


def test_range_when_broken_off_then_resumes_where_it_ended() -> None:
    server = Server([30, 0, 69])
    assert fetch(server) == CONTENT[20:120]
    assert server.ranges == ["bytes=20-119", "bytes=50-119", "bytes=50-119", "bytes=119-119"]
    assert fetch(Server([1] * 99)) == CONTENT[20:120], "each answer gives some, so more may break off than in a row"


def test_range_when_nothing_comes_then_growing_pauses_and_retryable() -> None:
    pauses: list[float] = []
    with pytest.raises(RetryableError, match=r"cannot read s3://bucket/key: .* broke off \(ConnectionError: reset"):
        fetch(Server([0] * 100), pauses)
    assert len(pauses) == MAX_BREAKS - 1
    assert all(0 <= pause <= 10 for pause in pauses)
    assert sum(pauses[-4:]) > sum(pauses[:4])


@pytest.mark.parametrize(
    ("says", "message"),
    [
        ({"ContentRange": "bytes 21-119/200"}, "instead of 20-119"),
        ({"ContentRange": "bytes 20-120/200"}, "'bytes 20-120/200' instead of 20-119"),
        ({"ContentRange": "bytes 20-119/100"}, "instead of 20-119"),
        ({"ContentLength": 101}, "has 101 bytes of the range 'bytes 20-119/200'"),
        ({"ContentRange": ""}, "the range '' instead of 20-119"),
        ({"ETag": None}, "the answer has no ETag"),
        ({"ETag": ""}, "the answer has no ETag"),
    ],
)
def test_range_when_the_answer_is_another_then_asked_again_and_nothing_of_it_is_taken(
    says: dict[str, Any], message: str
) -> None:
    server, sink = Server([], says=says), Sink()
    with pytest.raises(RetryableError, match=message):
        RangeReader(server, sleep=lambda _: None).fetch("bucket", "key", 20, 100, sink)
    assert (len(server.ranges), sink.done) == (MAX_BREAKS, 0)


def test_range_when_the_body_is_longer_than_it_says_then_nothing_of_it_is_taken() -> None:
    sink = Sink()
    body = Body(CONTENT[20:121], breaks=False)
    with pytest.raises(RetryableError, match=r"the answer to bytes 20-119 is longer than it says"):
        RangeReader(Server([], says={"Body": body})).fetch("bucket", "key", 20, 100, sink)
    assert sink.done == 0


def test_range_when_the_size_of_the_object_changes_then_no_mixture() -> None:
    sink = Sink('"a"', total=300)
    with pytest.raises(DataError, match="s3://bucket/key was replaced while it was read"):
        RangeReader(Server([])).fetch("bucket", "key", 20, 100, sink)
    assert sink.done == 0


def test_range_when_the_object_was_replaced_then_no_mixture() -> None:
    with pytest.raises(DataError, match="s3://bucket/key was replaced while it was read"):
        fetch(Server([30], etags=iter(['"a"', '"b"'])))


def test_object_when_opened_then_its_size_is_known_after_the_first_read() -> None:
    with RangeReader(Server([])).open("bucket", "key") as file:
        assert file.read(5) == CONTENT[:5]
        assert file.size == len(CONTENT)


def test_seekable_object_gives_what_a_file_gives_wherever_it_is_asked() -> None:
    server = Server([1, 30, 69])  # the first answer gives the size, the next two break off
    buffered = RangeReader(server, sleep=lambda _: None).open_seekable("bucket", "key")
    file = buffered.raw  # the buffer hides some seeks
    beside = io.BytesIO(CONTENT)
    for offset, whence, size in (
        (-8, io.SEEK_END, 8),
        (0, io.SEEK_SET, 50),
        (10, io.SEEK_CUR, 5),
        (190, io.SEEK_SET, 50),
    ):
        assert file.seek(offset, whence) == beside.seek(offset, whence)
        assert file.read(size) == beside.read(size)
    assert file.seek(500, io.SEEK_SET) == 500
    assert file.read(10) == b""


def test_seekable_object_that_is_replaced_is_an_error() -> None:
    server = Server([], etags=iter(['"a"', '"b"']))
    file = RangeReader(server).open_seekable("bucket", "key")
    with pytest.raises(DataError, match="was replaced"):
        file.read(10)
