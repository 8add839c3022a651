"""Names and shapes of the tensors in a weights file, without their data: a header of safetensors, an index of torch's files.

In: a URI. Out: tensors on the meta device, as a state dict. A model on that device takes them as it takes real weights, so
whether they fit is asked of the code that loads them.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from diht_k8s.api.errors import DataError, DihtError
from diht_k8s.data.shards.storage import Storage

if TYPE_CHECKING:
    from torch import Tensor

LENGTH_BYTES = 8
"""A safetensors file begins with the length of its header."""
MAX_HEADER = 100_000_000
"""As the library has it."""


def read_shapes(storage: Storage, uri: str) -> dict[str, Tensor]:
    """The state dict of a file on the meta device.

    Raises:
        DataError: the file is damaged, cut, or holds more than tensors; no code in it runs.
        UserError: it does not exist.
    """
    try:
        return _of_safetensors(storage, uri) if uri.endswith(".safetensors") else _of_torch(storage, uri)
    except DihtError:
        raise
    except Exception as error:  # json, pickle and torch raise many kinds; all mean the same to the user
        raise DataError(f"{uri} is damaged or no file of weights: fetch or export it again") from error


def _of_safetensors(storage: Storage, uri: str) -> dict[str, Tensor]:
    import torch
    from safetensors.torch import _TYPES  # the library's own table of its names

    length = int.from_bytes(storage.read_range(uri, 0, LENGTH_BYTES), "little")
    if length > MAX_HEADER:
        raise DataError(f"{uri} is damaged or no safetensors file: fetch or export it again")
    header: dict[str, Any] = json.loads(storage.read_range(uri, LENGTH_BYTES, LENGTH_BYTES + length))
    header.pop("__metadata__", None)
    end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if storage.size(uri) != LENGTH_BYTES + length + end:
        raise DataError(f"{uri} is cut: its header promises {end:,} bytes of weights: fetch or export it again")
    return {
        key: torch.empty(entry["shape"], dtype=_TYPES[entry["dtype"]], device="meta") for key, entry in header.items()
    }


def _of_torch(storage: Storage, uri: str) -> dict[str, Tensor]:
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    with storage.open(uri, seekable=True) as file, FakeTensorMode():  # which skips the data
        found: Any = torch.load(file, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    return {
        key.removeprefix("module."): torch.empty(value.shape, dtype=value.dtype, device="meta")
        for key, value in found.items()
        if isinstance(value, torch.Tensor)
    }
