"""The metadata of a safetensors file that is in memory. Pure.

`safetensors.safe_open` gives it of files on disk only, and `safetensors.load` leaves it out; ours come from any
storage.
"""

from __future__ import annotations

import json


def metadata_of(content: bytes) -> dict[str, str]:
    """The metadata in a file's header: eight bytes of length, then JSON.

    Raises:
        ValueError: there is no such header.
        KeyError: the header holds no metadata.
    """
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length])["__metadata__"]
