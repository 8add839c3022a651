"""A registry of this machine, for rehearsals: it speaks plain HTTP on the loopback and keeps what is pushed in a
folder.
"""

from __future__ import annotations

import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tools.release.programs import program

PATIENCE_S: Final = 20.0


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Its address, as `127.0.0.1:PORT`, while it runs.

    Raises:
        TimeoutError: it did not answer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [program("crane"), "registry", "serve", "--address", address, "--disk", str(folder)]
    with (folder.parent / "registry.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _wait_for(f"http://{address}/v2/")
        yield address
    finally:
        process.terminate()
        process.wait()


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except (urllib.error.URLError, ConnectionError) as error:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the registry at {url} does not answer: {error}") from error
            time.sleep(0.1)
