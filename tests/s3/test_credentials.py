"""Credentials of Google's and Azure's stores: the environment's, a file's, a storage rule's own, a pod's."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.s3.emulators import ACCOUNT, ACCOUNT_KEY, CONNECTION, answering, serving_azure, token_server
from tests.s3.faults import proxy_before
from tests.s3.server import S3

pytestmark = pytest.mark.s3
PROGRAM = """
import json, sys
from diht_k8s.api.data import StorageRule
from diht_k8s.api.errors import DihtError
from diht_k8s.data.shards.storage import Storage
storage, uri = Storage([StorageRule.model_validate(json.loads(sys.argv[1]))]), sys.argv[2]
try:
    created = storage.create(uri, b"x" * 9), storage.create(uri, b"y")
    print(*created, storage.read_bytes(uri) == b"x" * 9, storage.names(uri.rpartition("/")[0]))
except DihtError as error:
    print(f"{type(error).__name__}: {error}")
"""


def said(store: S3, folder: Path, endpoint: str, variables: Mapping[str, str]) -> str:
    """What a program that knows only these credentials says of a write, a second one, a read and a list."""
    hidden = ("GOOGLE_", "AZURE_", "DIHT_STORAGE_", "CLOUDSDK_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    uri = f"{store.base}/credentials/{folder.name}/object"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps({**store.rule, "endpointURL": endpoint}), uri],
        env={**kept, "HOME": str(folder), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or done.stderr[-1000:]


WELL = "True False True ['object']"


@pytest.mark.gs
@pytest.mark.parametrize("kind", ["file", "rule", "pod"])
def test_google_takes_the_credentials_of_each_kind(gs: S3, tmp_path: Path, kind: str) -> None:
    path = os.environ["GOOGLE_APPLICATION_CREDENTIALS"]
    with token_server() as tokens, proxy_before(gs.endpoint) as proxy:
        variables = {
            "file": {"GOOGLE_APPLICATION_CREDENTIALS": path},
            "rule": {"DIHT_STORAGE_0_GOOGLE_CREDENTIALS": Path(path).read_text()},
            "pod": {
                "GCE_METADATA_HOST": tokens.removeprefix("http://"),
                "GCE_METADATA_IP": tokens.removeprefix("http://"),
            },
        }
        assert said(gs, tmp_path, proxy.endpoint, variables[kind]) == WELL
        counts = proxy.faults.counts
    assert {key for key in counts if key.startswith("as ")} == {
        f"as Bearer for-a-{'pod' if kind == 'pod' else 'file'}"[:23]
    }


@pytest.mark.gs
@pytest.mark.parametrize(
    ("variables", "says"),
    [
        (
            {"NO_GCE_CHECK": "true"},
            "cannot reach gs://test-runs/.*credentials were not found.*: check endpointURL and credentials",
        ),
        ({"DIHT_STORAGE_0_GOOGLE_CREDENTIALS": "{}"}, "GOOGLE_CREDENTIALS holds no JSON of credentials"),
        ({"DIHT_STORAGE_0_GOOGLE_CREDENTIALS": "s3cret"}, "GOOGLE_CREDENTIALS holds no JSON of credentials"),
    ],
)
def test_google_without_credentials_is_the_users_fault(
    gs: S3, tmp_path: Path, variables: dict[str, str], says: str
) -> None:
    found = said(gs, tmp_path, gs.endpoint, variables)
    assert found.startswith("UserError: ")
    assert re.search(says, found)
    assert "s3cret" not in found


def signature() -> str:
    from azure.storage.blob import AccountSasPermissions, ResourceTypes, generate_account_sas

    return generate_account_sas(
        ACCOUNT,
        ACCOUNT_KEY,
        ResourceTypes(container=True, object=True),
        AccountSasPermissions(read=True, write=True, list=True, create=True),
        expiry=datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1),
    )


@pytest.mark.az
@pytest.mark.parametrize("kind", ["key", "signature", "rule", "rule with a signature"])
def test_azure_takes_the_credentials_of_each_kind(az: S3, tmp_path: Path, kind: str) -> None:
    variables = {
        "key": {"AZURE_STORAGE_ACCOUNT": ACCOUNT, "AZURE_STORAGE_KEY": ACCOUNT_KEY},
        "signature": {"AZURE_STORAGE_ACCOUNT": ACCOUNT, "AZURE_STORAGE_SAS_TOKEN": f"?{signature()}"},
        "rule": {"DIHT_STORAGE_0_AZURE_STORAGE_CONNECTION_STRING": CONNECTION, "AZURE_STORAGE_KEY": "d3Jvbmc="},
        "rule with a signature": {
            "DIHT_STORAGE_0_AZURE_STORAGE_CONNECTION_STRING": f"SharedAccessSignature={signature()}"
        },
    }
    assert said(az, tmp_path, az.endpoint, variables[kind]) == WELL


@pytest.mark.az
def test_azure_sends_a_token_by_https_only(az: S3, tmp_path: Path) -> None:
    with identity() as variables:
        assert "an identity is shown by https only" in said(az, tmp_path, az.endpoint, variables)


@pytest.mark.az
def test_azure_takes_a_pods_identity(tmp_path: Path) -> None:
    certificate, key = certificate_for(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REQUESTS_CA_BUNDLE", certificate)
        with (
            serving_azure(tmp_path, "--cert", certificate, "--key", key, "--oauth", "basic") as store,
            identity() as variables,
        ):
            assert said(store, tmp_path, store.endpoint, variables) == WELL
            with identity(audience="https://elsewhere.example.org") as others:
                assert "cannot write" in said(store, tmp_path, store.endpoint, others)


@contextlib.contextmanager
def identity(audience: str = "https://storage.azure.com") -> Iterator[dict[str, str]]:
    """The variables by which Azure's client finds a managed identity, and the server that they name.

    Azurite reads what a token says, and does not check its signature.
    """
    import jwt

    now = int(time.time())
    issuer = "https://sts.windows.net/00000000-0000-0000-0000-000000000000/"
    claims = {"aud": audience, "iss": issuer, "nbf": now - 60, "iat": now - 60, "exp": now + 3600}
    token = jwt.encode(claims, "a key of 32 bytes for the test's JWT", algorithm="HS256")
    with answering({"access_token": token, "expires_on": str(now + 3600), "token_type": "Bearer"}) as url:
        yield {"IDENTITY_ENDPOINT": f"{url}/token", "IDENTITY_HEADER": "x"}


def certificate_for(folder: Path) -> tuple[str, str]:
    """Paths of a certificate of the loopback, which is its own authority, and of its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "azurite")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(made.public_bytes(Encoding.PEM))
    paths[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return str(paths[0]), str(paths[1])
