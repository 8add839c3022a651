"""MATLAB files (.mat) of strangers: scipy reads them in a process of its own, since a changed byte can make it crash.

`python -m diht_k8s.data.imports.matlab_files MEMORY` is that process: the file comes in by its standard input, values
go out as JSON.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

MEMORY: Final = 4 << 30
"""Bytes of address space of the process: a changed size asks for more."""
SECONDS: Final = 120
"""For files of some megabytes at most."""


def read_mat(content: bytes) -> dict[str, Any]:
    """The variables of a file: numbers and texts, lists of them, and structures by the names of their fields.

    Raises:
        ModuleNotFoundError: scipy is missing.
        ValueError: it cannot be read.
    """
    command = [sys.executable, "-P", "-m", "diht_k8s.data.imports.matlab_files", str(MEMORY)]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(  # noqa: S603 (an argument list of ours, no shell)
            command, input=content, capture_output=True, env=one_thread, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"it is not read within {SECONDS} seconds") from error
    said = done.stderr.decode(errors="replace").strip().splitlines()
    if done.returncode == 0:
        return json.loads(done.stdout)
    if said and said[-1].startswith("ModuleNotFoundError"):
        raise ModuleNotFoundError(said[-1], name=said[-1].split("'")[1])
    raise ValueError(said[-1] if done.returncode > 0 and said else "its reader crashed")


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """`scipy.io.loadmat` by `read_mat`, for a reader of torchvision's that calls it."""
    import numpy as np
    import scipy.io

    def load(path: str | Path, **_: object) -> dict[str, Any]:
        found = read_mat(Path(path).read_bytes())
        return {name: np.array(value, dtype=object) for name, value in found.items()}

    own, scipy.io.loadmat = scipy.io.loadmat, load
    try:
        yield
    finally:
        scipy.io.loadmat = own


def _plain(value: Any) -> Any:
    """JSON of what `loadmat` returns with `squeeze_me`."""
    names = getattr(getattr(value, "dtype", None), "names", None)
    if getattr(value, "ndim", 0):
        return [_plain(each) for each in value]
    if names:
        fields = value.item() if hasattr(value, "item") else value
        return {name: _plain(field) for name, field in zip(names, fields, strict=True)}
    return value.item() if hasattr(value, "item") else value


def _main(memory: int) -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):  # no such limit on this system
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, resource.getrlimit(resource.RLIMIT_AS)[1]))
    from scipy.io import loadmat

    try:
        found = loadmat(io.BytesIO(sys.stdin.buffer.read()), squeeze_me=True)
        text = json.dumps({name: _plain(value) for name, value in found.items() if not name.startswith("__")})
    except Exception as error:  # scipy has no error of its own for a file that is cut or changed
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}"[:200])
    sys.stdout.write(text)


if __name__ == "__main__":
    _main(int(sys.argv[1]))
