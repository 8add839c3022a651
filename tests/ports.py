"""Ports for ranks that begin to listen only later."""

from __future__ import annotations

import secrets
import socket


def free_port() -> int:
    """A port that nobody listens on, below those that clients and other servers get meanwhile and apart from `tests/s3`'s."""
    while True:
        port = 11000 + secrets.randbelow(3000)
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
