"""An API server on the loopback that speaks TLS, knows tokens and client certificates, and a proxy in front of it."""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import select
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

NAME = "api.test"
"""The name in the server's certificate, beside 127.0.0.1."""


@dataclass(frozen=True)
class Certificates:
    """A certificate authority, the server's certificate and one of a client named `operator`, as PEM files."""

    folder: Path

    def make(self) -> Certificates:
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        self._openssl("req", "-x509", *key, "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.crt")
        for name, more in (
            ("server", f"subjectAltName=IP:127.0.0.1,DNS:{NAME}"),
            ("client", "keyUsage=digitalSignature"),
        ):
            subject = "/CN=operator" if name == "client" else f"/CN={NAME}"
            signed = ["-CA", "ca.crt", "-CAkey", "ca.key", "-addext", more, "-addext", "basicConstraints=CA:FALSE"]
            self._openssl(
                "req", "-x509", *key, *signed, "-subj", subject, "-keyout", f"{name}.key", "-out", f"{name}.crt"
            )
        return self

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def text(self, name: str) -> str:
        return (self.folder / name).read_text()

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path("server.crt"), self.path("server.key"))
        context.load_verify_locations(self.path("ca.crt"))
        context.verify_mode = ssl.CERT_OPTIONAL
        return context


@dataclass(frozen=True)
class Asked:
    """One request."""

    path: str
    token: str
    """of the Authorization header"""
    user: str
    """common name of the client's certificate"""
    connection: int
    """port of the client's end"""
    body: bytes
    server_name: str


@dataclass
class ApiServer:
    """Answers 401 to whom `admits` does not know, else `answer`."""

    certificates: Certificates
    admits: Callable[[Asked], bool] = lambda asked: True
    answer: tuple[int, dict[str, str], bytes] = (200, {}, b"{}")
    breaks_off: bool = False
    """sends half of the body and closes the connection"""
    asked: list[Asked] = field(default_factory=list)
    port: int = 0

    @contextmanager
    def serving(self) -> Iterator[ApiServer]:
        server = self
        names: dict[ssl.SSLSocket | ssl.SSLObject, str] = {}

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    super().handle()

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                certificate: Any = self.connection.getpeercert() or {}  # type: ignore[attr-defined]
                user = dict(pair for rdn in certificate.get("subject", ()) for pair in rdn).get("commonName", "")
                token = self.headers.get("Authorization", "")
                name = names.get(self.connection, "")  # type: ignore[call-overload]
                asked = Asked(self.path, token, user, self.client_address[1], body, name)
                server.asked.append(asked)
                status, headers, content = server.answer if server.admits(asked) else (401, {}, b"{}")
                self.send_response(status)
                for pair in headers.items():
                    self.send_header(*pair)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if server.breaks_off:
                    self.close_connection, content = True, content[: len(content) // 2]
                self.wfile.write(content)

            do_POST = do_PATCH = do_DELETE = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                pass

        context = self.certificates.server_context()
        context.sni_callback = lambda connection, name, _: names.update({connection: name or ""})
        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
            found.daemon_threads = True
            found.socket = context.wrap_socket(found.socket, server_side=True)
            self.port = found.server_port
            Thread(target=found.serve_forever, args=(0.05,), daemon=True).start()
            try:
                yield self
            finally:
                found.shutdown()

    def kubeconfig(self, folder: Path, user: dict[str, Any], **cluster: Any) -> Path:
        """A kubeconfig for it, in a file."""
        named = {
            "server": f"https://127.0.0.1:{self.port}",
            "certificate-authority-data": base64.b64encode(self.certificates.text("ca.crt").encode()).decode(),
            **cluster,
        }
        document = {
            "current-context": "x",
            "clusters": [{"name": "c", "cluster": named}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        }
        path = folder / "kubeconfig"
        path.write_text(json.dumps(document))
        return path


@contextmanager
def proxy(certificates: Certificates | None) -> Iterator[tuple[str, list[str]]]:
    """A proxy that opens tunnels, behind TLS if certificates are given: its URL, and the targets that it was asked
    for.
    """
    targets: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            targets.append(self.path)
            host, _, port = self.path.rpartition(":")
            with socket.create_connection((host, int(port))) as upstream, contextlib.suppress(OSError):
                self.send_response(200)
                self.end_headers()
                tunnel(self.connection, upstream)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        found.daemon_threads = True
        if certificates is not None:
            found.socket = certificates.server_context().wrap_socket(found.socket, server_side=True)
        Thread(target=functools.partial(found.serve_forever, 0.05), daemon=True).start()
        try:
            yield f"{'https' if certificates else 'http'}://127.0.0.1:{found.server_port}", targets
        finally:
            found.shutdown()


def tunnel(near: socket.socket, far: socket.socket) -> None:
    """Pass on what comes until one side is done."""
    while True:
        pending = isinstance(near, ssl.SSLSocket) and near.pending()
        ready = [near] if pending else select.select([near, far], [], [], 30)[0]
        for source in ready:
            data = source.recv(1 << 16)
            if not data:
                return
            (far if source is near else near).sendall(data)
