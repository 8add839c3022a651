"""Objects read by ranges: prefetched, resumed where a connection broke, and always one version of the object.

In: an S3 client of botocore or an `ObjectStore`, bucket and key. Out: a file that streams forwards. A request that the
server refuses temporarily (503, a throttle, no connection) is repeated by botocore with growing, jittered pauses; a
body that breaks off or comes short is requested again here, from the byte where it ended; so is an answer that does not
say which bytes of which version it holds, or holds more than it was asked for. Each range must carry the ETag and the
size of the first one: an object that is replaced meanwhile is an error, never a mixture. What is read ahead is bounded
in bytes over all files of a process.

Own code, because a process forked from one that has read by obstore 0.12.1 hangs at its first read, and the training's
loader forks; obstore reads no AWS profiles either. Ours gives 0.77 of its rate at 0.88 of its CPU time (`benchmarks/run
s3_read`).
"""

from __future__ import annotations

import io
import queue
import random
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)
from urllib3.exceptions import HTTPError

from diht_k8s.api.errors import DataError, RetryableError

BLOCK_BYTES: Final = 32 << 20
"""One range: large enough that neither latency nor the 2 ms that botocore computes for each request count."""
MIN_BLOCK_BYTES: Final = 256 << 10
AHEAD: Final = 1
"""Ranges that are fetched beside the one that is read."""
READ_AHEAD_BYTES: Final = 256 << 20
"""For all open files of a process together; with many files the ranges get smaller."""
MAX_BREAKS: Final = 12
"""Bodies of one range that may break off one after the other."""
MAX_PAUSE_S: Final = 10.0
CHUNK_BYTES: Final = 1 << 20
BROKEN: Final = (
    ConnectionClosedError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
    HTTPError,
    ConnectionError,
    TimeoutError,
)
"""Errors of a body that breaks off; botocore passes some of urllib3's own through."""
_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class RangeReader:
    """Opens objects; one for each process, since it has connections and threads."""

    def __init__(self, client: Any, scheme: str = "s3", *, sleep: Callable[[float], object] = time.sleep) -> None:
        """Make a reader.

        Args:
            client: botocore's or boto3's S3 client, or an `ObjectStore`, which has the same two calls.
            scheme: of the objects' URIs, for messages.
            sleep: pauses between two tries.
        """
        self._client, self._scheme, self._sleep = client, scheme, sleep
        self._threads = ThreadPoolExecutor(16, thread_name_prefix="range-read")
        self._files, self._lock = 0, threading.Lock()

    def open(self, bucket: str, key: str) -> ObjectFile:
        """The object as a file that reads forwards.

        Raises:
            ClientError: the server refuses the object; see `storage` for what becomes of it.
        """
        return ObjectFile(self, bucket, key)

    def read(self, bucket: str, key: str, begin: int, end: int, etag: str) -> bytes:
        """The bytes from `begin` to before `end` of one version of an object, in one request if none breaks off.

        Args:
            bucket: of the object.
            key: of the object.
            begin: first byte.
            end: byte after the last one.
            etag: of the version, without quotation marks; empty takes any.

        Raises:
            DataError: the object has another ETag.
            RetryableError: the bodies broke off too often.
        """
        sink, parts = Sink(f'"{etag}"' if etag else ""), list[bytes]()
        self.fetch(bucket, key, begin, end - begin, sink)
        sink.put(None)
        while (chunk := sink.next()) is not None:
            parts.append(chunk)
        return b"".join(parts)

    def fetch(self, bucket: str, key: str, begin: int, size: int, sink: Sink) -> None:
        """Pass bytes from `begin` on, at most `size`, to `sink` as they come.

        Raises:
            DataError: the object has another ETag than the sink knows of.
            RetryableError: the bodies broke off too often.
        """
        breaks = 0
        while sink.done < min(size, sink.total - begin):
            before = sink.done
            try:
                self._request(bucket, key, begin + before, begin + size, sink)
                reason = "a short answer"
            except BROKEN as error:
                reason = f"{type(error).__name__}: {error}"
            if sink.done < min(size, sink.total - begin):
                breaks = 0 if sink.done > before else breaks + 1
                if breaks >= MAX_BREAKS:
                    raise RetryableError(
                        f"cannot read {self._scheme}://{bucket}/{key}: {MAX_BREAKS} answers in a row broke off "
                        f"({reason}): start again when the storage answers"
                    )
                self._sleep(random.uniform(0, min(0.05 * 2**breaks, MAX_PAUSE_S)))

    def _request(self, bucket: str, key: str, first: int, end: int, sink: Sink) -> None:
        """One request for what is missing."""
        condition = {"IfMatch": sink.etag} if sink.etag else {}
        try:
            answer = self._client.get_object(Bucket=bucket, Key=key, Range=f"bytes={first}-{end - 1}", **condition)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in ("InvalidRange", "416") and first == 0:  # no byte to give: the object is empty
                head = self._client.head_object(Bucket=bucket, Key=key)
                sink.about(int(head["ContentLength"]), _etag(head), self._changed(bucket, key))
                return
            if code in ("PreconditionFailed", "412"):
                raise self._changed(bucket, key) from error
            raise
        body = answer["Body"]
        try:
            size, total = _size_and_total(answer, first, end)
            sink.about(total, _etag(answer), self._changed(bucket, key))
            while chunk := body.read(CHUNK_BYTES):
                size -= len(chunk)
                if size < 0:
                    raise RetryableError(
                        f"cannot read {self._scheme}://{bucket}/{key}: the answer to bytes {first}-{end - 1} is "
                        "longer than it says, so its bytes cannot be trusted: start again, and look at the storage or "
                        "the proxy before it"
                    )
                sink.done += len(chunk)
                sink.put(chunk)
        finally:
            body.close()

    def _changed(self, bucket: str, key: str) -> DataError:
        return DataError(
            f"{self._scheme}://{bucket}/{key} was replaced while it was read: start again, and leave input alone "
            "during a run"
        )

    def block_bytes(self) -> int:
        """Size of the next range, by the number of open files."""
        share = READ_AHEAD_BYTES // ((AHEAD + 1) * max(self._files, 1))
        return max(MIN_BLOCK_BYTES, min(BLOCK_BYTES, share))

    def start(self, bucket: str, key: str, begin: int, size: int, sink: Sink) -> None:
        """Fetch in a thread."""

        def work() -> None:
            try:
                if not sink.forgotten:
                    self.fetch(bucket, key, begin, size, sink)
                sink.put(None)
            except BaseException as error:  # handed over to the thread that reads
                sink.put(error)

        self._threads.submit(work)

    def open_seekable(self, bucket: str, key: str) -> io.BufferedReader:
        """The object as a file that reads anywhere, without reading ahead; raises what `open` does."""
        return io.BufferedReader(SeekableObject(self, bucket, key))

    def count_files(self, change: int) -> None:
        """Note that files were opened or closed."""
        with self._lock:
            self._files += change


class Sink:
    """Takes the chunks of a range as they come, and what the answers say about the object."""

    def __init__(self, etag: str = "", *, total: int = sys.maxsize) -> None:
        """Make a sink; without an ETag the first answer sets it."""
        self.etag, self.total, self.done = etag, total, 0
        self.forgotten = False
        """whether the file was closed."""
        self._items: queue.SimpleQueue[bytes | BaseException | None] = queue.SimpleQueue()

    def about(self, total: int, etag: str, changed: DataError) -> None:
        """Take what an answer says about the object; raises `changed` if the first one has said something else."""
        if self.etag not in ("", etag) or self.total not in (sys.maxsize, total):
            raise changed
        self.total, self.etag = total, etag

    def put(self, item: bytes | BaseException | None) -> None:
        """Take a chunk, or None or an error at the end."""
        self._items.put(item)

    def next(self) -> bytes | None:
        """The next chunk, None at the end."""
        item = self._items.get()
        if isinstance(item, BaseException):
            raise item
        return item


class ObjectFile(io.BufferedIOBase):
    """An object that is read forwards."""

    def __init__(self, reader: RangeReader, bucket: str, key: str) -> None:
        """Ask for the first range, which gives size and ETag; use `RangeReader.open`."""
        self._reader, self._bucket, self._key = reader, bucket, key
        self._rest = memoryview(b"")
        self._coming: deque[Sink] = deque()
        self._about, self._asked = Sink(), 0
        """the sink of the first range, which knows size and ETag."""
        reader.count_files(1)
        self._ask(self._about)

    @property
    def size(self) -> int | None:
        """Size of the object in bytes; None until the first answer."""
        return None if self._about.total == sys.maxsize else self._about.total

    def readable(self) -> bool:
        """It is for reading."""
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        """At most `size` bytes, fewer only at the end; all remaining bytes without a size."""
        wanted, parts = -1 if size is None else size, list[memoryview]()
        while wanted != 0 and (self._rest or self._next()):
            part = self._rest if wanted < 0 else self._rest[:wanted]
            self._rest = self._rest[len(part) :]
            wanted -= len(part) if wanted > 0 else 0
            parts.append(part)
        if len(parts) == 1 and isinstance(parts[0].obj, bytes) and len(parts[0]) == len(parts[0].obj):
            return parts[0].obj  # a whole chunk, as it came
        return b"".join(parts)

    def read1(self, size: int = -1, /) -> bytes:
        """The same as `read`."""
        return self.read(size)

    def close(self) -> None:
        """Forget what is on its way."""
        if not self.closed:
            self._reader.count_files(-1)
            for coming in self._coming:
                coming.forgotten = True
            self._coming.clear()
        super().close()

    def _next(self) -> bool:
        """Take the next chunk; False at the end."""
        while self._coming:
            chunk = self._coming[0].next()
            if chunk is None:
                self._coming.popleft()
            while self._asked < self._about.total and len(self._coming) <= AHEAD:
                self._ask(Sink(self._about.etag, total=self._about.total))
            if chunk is not None:
                self._rest = memoryview(chunk)
                return True
        return False

    def _ask(self, sink: Sink) -> None:
        size = min(self._reader.block_bytes(), self._about.total - self._asked)
        self._reader.start(self._bucket, self._key, self._asked, size, sink)
        self._coming.append(sink)
        self._asked += size


def _size_and_total(answer: Any, first: int, end: int) -> tuple[int, int]:
    """The sizes of an answer and of the object; the answer must hold what was asked for, or the beginning of it."""
    match = _CONTENT_RANGE.fullmatch(answer.get("ContentRange", ""))
    begin, last, total = (-1, -1, -1) if match is None else map(int, match.groups())
    if (
        not first == begin <= last < min(end, total)
        or answer.get("ContentLength", last + 1 - first) != last + 1 - first
    ):
        raise ConnectionError(
            f"the answer has {answer.get('ContentLength')} bytes of the range {answer.get('ContentRange')!r} "
            f"instead of {first}-{end - 1}"
        )
    return last + 1 - first, total


def _etag(answer: Any) -> str:
    if not answer.get("ETag"):
        raise ConnectionError("the answer has no ETag, so a replaced object would go unseen")
    return answer["ETag"]


class SeekableObject(io.RawIOBase):
    """An object that is read anywhere, one request for each read: tables, whose readers ask for large ranges."""

    def __init__(self, reader: RangeReader, bucket: str, key: str) -> None:
        """Ask for the first byte, which gives size and ETag; use `RangeReader.open`."""
        self._reader, self._bucket, self._key = reader, bucket, key
        about = Sink()
        reader.fetch(bucket, key, 0, 1, about)
        self._size, self._etag, self._position = about.total, about.etag, 0

    def readable(self) -> bool:
        """It is for reading."""
        return True

    def seekable(self) -> bool:
        """It can go to any byte."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to a byte, by its number from the beginning, from here or from the end."""
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def tell(self) -> int:
        """The number of the next byte."""
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        """Fill the buffer, less only at the end.

        Raises:
            DataError: the object was replaced since it was opened.
            RetryableError: the answers broke off too often.
        """
        wanted = max(0, min(len(buffer), self._size - self._position))
        if wanted == 0:
            return 0
        sink, filled = Sink(self._etag, total=self._size), 0
        self._reader.fetch(self._bucket, self._key, self._position, wanted, sink)
        while filled < wanted:
            chunk = sink.next() or b""
            buffer[filled : filled + len(chunk)] = chunk
            filled += len(chunk)
        self._position += filled
        return filled
