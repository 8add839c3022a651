"""A server of images on the loopback whose paths say what goes wrong: `/503/7`, `/reset/8`, `/ok/9`."""

from __future__ import annotations

import contextlib
import http.server
import socket
import struct
import threading
from collections.abc import Iterator

from tests.recipe.imports.loose_pairs import jpeg

FAULTS = {
    "503": "http_503",
    "reset": "connection_reset",
    "short": "body_short",
    "silent": "timeout",
    "html": "picture_unreadable",
    "404": "http_404",
}
"""What goes wrong -> the cause that is counted."""


class FaultyWeb:
    """Answers, and notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.is_well = False
        """whether every path gives an image."""
        self.port = 0

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 64
    web: FaultyWeb
    closing: threading.Event


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        web = self.server.web
        web.asked.append(self.path.removeprefix("/"))
        kind, _, number = self.path.removeprefix("/").partition("/")
        fault = "ok" if web.is_well else kind
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        elif fault == "silent":
            self.server.closing.wait()
        elif fault.isdigit():
            self.send_error(int(fault))
        else:
            self._answer(fault, b"<html>not here</html>" if fault == "html" else jpeg(int(number)))

    def _answer(self, kind: str, body: bytes) -> None:
        self.send_response(302 if kind in ("elsewhere", "circle") else 200)
        headers = {
            "circle": ("Location", self.path),
            "elsewhere": ("Location", self.server.web.url("ok/1")),
            "noai": ("X-Robots-Tag", "noai, noimageai"),
            "others": ("X-Robots-Tag", "otherbot: noai"),
        }
        if kind in headers:
            self.send_header(*headers[kind])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if kind == "short" else body)

    def log_message(self, format: str, *arguments: object) -> None: ...

    def handle(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().handle()

    def finish(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().finish()


@contextlib.contextmanager
def serving(web: FaultyWeb) -> Iterator[FaultyWeb]:
    """Serve until the block ends; a silent path says nothing until then."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.web, server.closing = web, threading.Event()
        web.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield web
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()
