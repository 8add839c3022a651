"""obstore beside our reader of S3 objects, also after a fork."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

PACKAGES = Path(__file__).resolve().parent.parent / ".cache/obstore"
CHUNK_BYTES = 1 << 20
FORKED_S = 20.0
"""A forked process that has not read some bytes after this time never will: a read takes milliseconds."""


def store(endpoint: str, bucket: str, key: str, secret: str) -> Any:
    """A store for a bucket; None where obstore is not installed."""
    sys.path.append(str(PACKAGES))
    try:
        from obstore.store import S3Store  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    return S3Store(
        bucket,
        endpoint=endpoint,
        region="us-east-1",
        access_key_id=key,
        secret_access_key=secret,
        client_options={"allow_http": True},
    )


def read(bucket: Any, key: str, use: Callable[[bytes], object]) -> int:
    """The object as one stream; where it breaks off for good it is asked for again, of the same version."""
    import obstore  # pyright: ignore[reportMissingImports]

    first = obstore.get(bucket, key)
    size, etag, done, answer = first.meta["size"], first.meta["e_tag"], 0, first
    while done < size:
        try:
            for chunk in answer.stream(CHUNK_BYTES):
                use(bytes(chunk))
                done += len(chunk)
        except obstore.exceptions.GenericError:
            pass  # its own retries are used up
        if done < size:
            answer = obstore.get(bucket, key, options={"range": {"offset": done}, "if_match": etag})
    return size


def reads_after_fork(bucket: Any, key: str) -> bool:
    """Whether a forked process can read once its parent has; the loader's workers are such processes."""
    read(bucket, key, len)
    child = multiprocessing.get_context("fork").Process(target=read, args=(bucket, key, len), daemon=True)
    child.start()
    child.join(FORKED_S)
    ended = child.exitcode == 0
    child.kill()
    return ended
