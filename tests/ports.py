"""Ports for programs that begin to listen only later."""

from __future__ import annotations

import secrets
import socket
from typing import Final

_kept: Final[list[socket.socket]] = []
"""Names of the ports that this process was given, until it ends."""


def free_port() -> int:
    """A port that nobody listens on, below those that clients and other servers get meanwhile and apart from
    `tests/s3`'s.
    """
    while True:
        port = 11000 + secrets.randbelow(3000)
        if is_ours(port):
            return port


def is_ours(*ports: int) -> bool:
    """Whether nobody listens on any of these, and no other test of this machine was given the first one and has yet to
    listen.
    """
    name = socket.socket(socket.AF_UNIX)
    try:
        name.bind(f"\0diht-tests-port-{ports[0]}")  # of no file; it goes with the process
        for port in ports:
            with socket.socket() as sock:
                sock.bind(("127.0.0.1", port))
    except OSError:
        name.close()
        return False
    _kept.append(name)
    return True
