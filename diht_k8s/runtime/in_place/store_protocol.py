"""How launchers talk to their control store: frames of JSON, behind a proof that both know the token of their attempt.

Whoever reaches the port may send anything. So the server speaks first: a random challenge. The client answers with one of its
own and an HMAC of both under the token; the server's HMAC of both comes back. Neither says more before, the token is never
sent, and an answer that was overheard fits no other challenge. What follows is neither encrypted nor signed.

A frame is its length as four bytes, the highest first, then as many bytes of JSON.
"""

from __future__ import annotations

import hmac
import json
import secrets
from typing import Any, Final

CHALLENGE_BYTES: Final = 32
PROOF_BYTES: Final = 32
HEADER_BYTES: Final = 4
MOST_FRAME_BYTES: Final = 2**18
"""A register with two messages of a failure has less than 64 KiB."""


class ProtocolError(Exception):
    """The other side does not know the token, or does not keep to the protocol."""


def challenge() -> bytes:
    """A new one."""
    return secrets.token_bytes(CHALLENGE_BYTES)


def proof(token: str, side: bytes, servers: bytes, clients: bytes) -> bytes:
    """What shows that a side, `client` or `server`, knows the token: of no use to the other side, or after another challenge."""
    return hmac.digest(token.encode(), b"diht control store " + side + servers + clients, "sha256")


def check_proof(given: bytes, token: str, side: bytes, servers: bytes, clients: bytes) -> None:
    """Compare in constant time.

    Raises:
        ProtocolError: it is another one.
    """
    if not hmac.compare_digest(given, proof(token, side, servers, clients)):
        raise ProtocolError(f"the {side.decode()} does not know the token of this attempt")


def frame(message: Any) -> bytes:
    """A message on the wire.

    Raises:
        ProtocolError: it is too large.
    """
    body = json.dumps(message, separators=(",", ":")).encode()
    if len(body) > MOST_FRAME_BYTES:
        raise ProtocolError(f"a message of {len(body)} bytes is too large")
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def body_length(header: bytes) -> int:
    """The bytes that follow a header.

    Raises:
        ProtocolError: more than a message may have.
    """
    length = int.from_bytes(header, "big")
    if length > MOST_FRAME_BYTES:
        raise ProtocolError(f"a message of {length} bytes is too large")
    return length


def message(body: bytes) -> Any:
    """A message from the bytes behind its header.

    Raises:
        ProtocolError: it is no JSON.
    """
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("no JSON") from error
