"""A proxy on the loopback between one operator and the API server, which a test has stall, refuse, delay or hang up.

It speaks plain HTTP to the operator and passes the token on, so that faults can be picked by request.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "upgrade"}


@dataclass(frozen=True)
class Request:
    """What the operator asked."""

    at: float
    """seconds, monotonic"""
    method: str
    path: str

    @property
    def is_watch(self) -> bool:
        return "watch=True" in self.path or "watch=true" in self.path


@dataclass(frozen=True)
class Fault:
    """What happens to a request in place of an answer, or before it."""

    status: int = 0
    """answered in place of the API server; 0 passes the request on"""
    retry_after: int | None = None
    delay_s: float = 0.0
    hang_up: bool = False
    """the connection is closed without an answer"""
    stall: bool = False
    """nothing is answered, and the connection stays open"""


class ApiProxy:
    """The proxy; `kubeconfig` is the operator's way through it."""

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        """Make one in front of the API server that a kubeconfig names; files of its own go into the folder."""
        config = yaml.safe_load(kubeconfig.read_text())
        cluster = config["clusters"][0]["cluster"]
        address = urlsplit(cluster["server"])
        trust = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
        user = config["users"][0]["user"]
        if certificate := user.pop("client-certificate-data", None):  # the proxy shows it in the operator's place
            pair = folder / "client.pem"
            pair.write_bytes(base64.b64decode(user.pop("client-key-data")) + base64.b64decode(certificate))
            trust.load_cert_chain(pair)
        self.upstream: Callable[[], http.client.HTTPSConnection] = lambda: http.client.HTTPSConnection(
            address.hostname or "", address.port, context=trust, timeout=300
        )
        self.fault: Callable[[Request], Fault | None] = lambda request: None
        """asked for each request"""
        self.requests: list[Request] = []
        self.stalled_before = 0.0
        """watches that began before this time, monotonic, carry nothing any more and stay open"""
        self._sockets: set[socket.socket] = set()
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        config["clusters"][0]["cluster"] = {"server": f"http://localhost:{self._server.server_port}"}
        self.kubeconfig = folder.joinpath(f"proxy-{self._server.server_port}.kubeconfig")
        self.kubeconfig.write_text(yaml.safe_dump(config))

    def stall_watches(self) -> None:
        """From now on the watches of this moment carry nothing; later ones do."""
        self.stalled_before = time.monotonic()

    def hang_up(self) -> None:
        """Close all connections."""
        for each in list(self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def since(self, at: float) -> list[Request]:
        """What was asked since then."""
        return [request for request in list(self.requests) if request.at >= at]

    @contextmanager
    def serving(self) -> Iterator[ApiProxy]:
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self.hang_up()
            self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    owner: ApiProxy
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.owner._sockets.add(self.connection)

    def finish(self) -> None:
        self.owner._sockets.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def handle(self) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = Request(time.monotonic(), self.command, self.path)
        self.owner.requests.append(request)
        fault = self.owner.fault(request) or Fault()
        time.sleep(fault.delay_s)
        if fault.hang_up:
            self.close_connection = True
        elif fault.stall:
            self._swallow()
        elif fault.status:
            self._refuse(fault)
        else:
            self._pass_on(request, body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

    def _refuse(self, fault: Fault) -> None:
        self.send_response(fault.status)
        if fault.retry_after is not None:
            self.send_header("Retry-After", str(fault.retry_after))
        text = b'{"kind":"Status","reason":"TooManyRequests","message":"the test says so"}'
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _pass_on(self, request: Request, body: bytes) -> None:
        headers = {key: value for key, value in self.headers.items() if key.lower() not in HOP_BY_HOP}
        with contextlib.closing(self.owner.upstream()) as upstream:
            upstream.request(self.command, self.path, body or None, headers)
            response = upstream.getresponse()
            self.send_response(response.status)
            for key, value in response.getheaders():
                if key.lower() not in HOP_BY_HOP:
                    self.send_header(key, value)
            if request.is_watch:
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self._stream(request, response)
            else:
                data = response.read()
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

    def _stream(self, request: Request, response: http.client.HTTPResponse) -> None:
        while data := response.read1(1 << 16):
            if request.at < self.owner.stalled_before:
                self._swallow()
                return
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        if request.at < self.owner.stalled_before:
            self._swallow()
            return
        self.wfile.write(b"0\r\n\r\n")

    def _swallow(self) -> None:
        """Take what comes and answer nothing until the other side hangs up."""
        while self.connection.recv(1 << 16):
            pass
        self.close_connection = True
