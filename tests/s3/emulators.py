"""Emulators of Google's and Azure's object stores on the loopback, each with one bucket; `tests/s3/install` brings
them.

What was checked of their truth (`test_create`, `test_reading`): both write conditionally, also against each other's
threads. fake-gcs-server ignores ifGenerationMatch of reads, which Google's own server refuses by 412; its answers name
the generation that they are of. Azurite knows no hierarchical names.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import requests

from tests.conftest import EMULATORS
from tests.s3.server import BUCKET, S3, START_SECONDS, end, free_ports

ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Azurite's own, which its documentation names."""
CONNECTION = f"AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY}"


@contextlib.contextmanager
def serving_google(folder: Path) -> Iterator[S3]:
    """fake-gcs-server; a file of credentials is in the environment meanwhile, and a server gives tokens for it."""
    (port,) = free_ports(1)
    endpoint = f"http://127.0.0.1:{port}"
    command = [
        str(EMULATORS / "bin/fake-gcs-server"),
        "-scheme",
        "http",
        "-host",
        "127.0.0.1",
        "-port",
        str(port),
        "-backend",
        "memory",
    ]
    command += ["-external-url", endpoint, "-log-level", "warn"]
    with token_server() as tokens, pytest.MonkeyPatch.context() as patch, _running(command, folder) as check:
        patch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(_service_account(folder, tokens)))
        _wait_for(endpoint + "/storage/v1/b?project=test", check)
        requests.post(f"{endpoint}/storage/v1/b?project=test", json={"name": BUCKET}, timeout=60).raise_for_status()
        yield S3(endpoint, BUCKET, scheme="gs")


@contextlib.contextmanager
def serving_azure(folder: Path, *tls: str) -> Iterator[S3]:
    """Azurite; its connection string is in the environment meanwhile.

    `tls`: its options for https.
    """
    from azure.storage.blob import BlobServiceClient

    (port,) = free_ports(1)
    endpoint = f"{'https' if tls else 'http'}://127.0.0.1:{port}/{ACCOUNT}"
    command = [
        str(EMULATORS / "node_modules/.bin/azurite-blob"),
        "--silent",
        "--blobPort",
        str(port),
        "--inMemoryPersistence",
        "--disableTelemetry",
        "--skipApiVersionCheck",
        *tls,
    ]
    text = f"{CONNECTION};BlobEndpoint={endpoint}"
    with pytest.MonkeyPatch.context() as patch, _running(command, folder) as check:
        patch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
        _wait_for(endpoint, check)
        with BlobServiceClient.from_connection_string(text) as client:
            client.create_container(BUCKET)
        yield S3(endpoint, BUCKET, scheme="az")


@contextlib.contextmanager
def token_server() -> Iterator[str]:
    """URL of a server that gives tokens: `for-a-file` as Google's does, `for-a-pod` as a node's metadata server."""

    about = {"expires_in": 3600, "token_type": "Bearer", "email": "pod@test.invalid", "scopes": []}
    with answering({**about, "access_token": "for-a-pod"}, {**about, "access_token": "for-a-file"}) as url:
        yield url


@contextlib.contextmanager
def answering(get: object, post: object = None) -> Iterator[str]:
    """URL of a server that gives each GET and each POST the same JSON; it ends with the block."""

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self._give(post)

        def do_GET(self) -> None:
            if self.path.endswith("universe-domain"):  # Google's own, if a metadata server does not know it
                self.send_error(404)
            else:
                self._give(get)

        def _give(self, answer: object) -> None:
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Metadata-Flavor", "Google")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _service_account(folder: Path, tokens: str) -> Path:
    """A file of credentials as Google's console makes it, with a key of its own."""
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    about = {
        "type": "service_account",
        "client_email": "tests@test.invalid",
        "private_key": text,
        "token_uri": f"{tokens}/token",
    }
    path = folder / "credentials.json"
    path.write_text(json.dumps({**about, "private_key_id": "1", "project_id": "test"}))
    return path


@contextlib.contextmanager
def _running(command: Sequence[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        try:
            yield server
        finally:
            end(server)


def _wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            requests.get(url, timeout=30)
            return
        except requests.RequestException as error:
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{server.args} did not start") from error
            time.sleep(0.1)
