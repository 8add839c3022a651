"""What the fixtures and tests of the cluster tier are made of: the scripts, kubectl and S3 as objects, waiting,
manifests.
"""

from __future__ import annotations

import functools
import json
import os
import secrets
import string
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import boto3
import kubernetes
import pytest
import urllib3.exceptions

HERE = Path(__file__).parent
PROJECT = HERE.parent.parent
CLUSTER = Path(os.environ.get("TEST_CLUSTER_DIR") or Path.home() / ".cache/test-cluster")
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
EXIT_UNAVAILABLE = 69
PATIENCE = int(os.environ.get("TEST_CLUSTER_PATIENCE", "1"))
"""How many times longer to wait than on a machine that does nothing else."""


def script(name: str, *arguments: str) -> str:
    """Runs one of the scripts beside this file; returns its output, skips where this machine cannot do what it asks."""
    done = subprocess.run([HERE / name, *arguments], capture_output=True, text=True)
    if done.returncode == EXIT_UNAVAILABLE:
        cannot(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, f"{name} failed: {done.stderr}"
    return done.stdout.strip()


def cannot(reason: str) -> NoReturn:
    if os.environ.get("TEST_CLUSTER_REQUIRED") == "1":
        pytest.fail(f"the cluster tier is required here, but: {reason}")
    pytest.skip(reason)


def manifest(file: str, **values: object) -> str:
    """A YAML file of etc/ with ${name} replaced: strings as YAML's double-quoted scalars read them, everything else as
    JSON.
    """
    text = {
        name: json.dumps(value) if not isinstance(value, str) else json.dumps(value)[1:-1]
        for name, value in values.items()
    }
    return string.Template((HERE / "etc" / file).read_text()).substitute(text)


def recipe_image() -> str:
    """The image that runs the recipe (see the fixture of this name), in each node of the scripts' own cluster."""
    packages = Path(sysconfig.get_path("purelib"))
    if not packages.is_relative_to(PROJECT) or sys.version_info[:2] != (3, 11):
        cannot("pods mount this checkout: it needs its Python 3.11 environment inside, as .venv")
    root = Path(script("debian"))
    environment = [
        f"PYTHONPATH=/project/{packages.relative_to(PROJECT)}:/project",
        "PYTHONDONTWRITEBYTECODE=1",
        "OMP_NUM_THREADS=1",
        "HOME=/tmp",
    ]
    name = f"local/recipe:{int(root.stat().st_mtime)}"
    script(
        "image",
        name,
        "--once",
        "--add",
        f"{root}=/",
        "--add",
        f"{HERE}/etc/programs=/usr/local/bin",
        "--user",
        "10001:10001",
        *(word for pair in environment for word in ("--env", pair)),
    )
    return name


NAMESPACES: list[str] = []
"""Those of `fresh_namespace` that are there."""


class KubectlError(Exception):
    """kubectl's own message."""


@functools.cache
def _client(kubeconfig: Path) -> kubernetes.client.ApiClient:
    return kubernetes.config.new_client_from_config(str(kubeconfig))


@dataclass(frozen=True)
class Kubectl:
    """kubectl as a function: `kubectl("get", "pods")` returns what it prints, a failure is a KubectlError."""

    program: str
    kubeconfig: Path

    def __call__(self, *arguments: str, stdin: str | None = None, timeout_s: float = 60) -> str:
        command = [self.program, "--kubeconfig", str(self.kubeconfig), *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout_s * PATIENCE)
        if done.returncode != 0:
            raise KubectlError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "-o", "json"))

    def read(self, path: str) -> Any:
        """What the API server answers to a GET; see `send`."""
        return self.send("GET", path)

    def send(self, method: str, path: str, body: Any = None, **query: str) -> Any:
        """What the API server answers, for what is asked again and again: kubectl's start takes 0.1 CPU seconds."""
        client = _client(self.kubeconfig)
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        if method in ("POST", "PATCH"):
            query["fieldValidation"] = "Strict"
        request = client.param_serialize(
            method=method,
            resource_path=path,
            query_params=list(query.items()),
            header_params={"Content-Type": kind},
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            response = client.call_api(*request)
            answer = response.read()
        except urllib3.exceptions.HTTPError as error:
            raise KubectlError(f"{method} {path}: {error}") from error
        if response.status >= 300:
            raise KubectlError(f"{method} {path}: {answer.decode()}")
        return json.loads(answer)

    def create(self, document: dict[str, Any], namespace: str = "") -> None:
        """Makes an object, without kubectl."""
        version, kind = document["apiVersion"], document["kind"].lower()
        within = f"/namespaces/{namespace}" if namespace else ""
        self.send("POST", f"/{'api' if version == 'v1' else 'apis'}/{version}{within}/{kind}s", document)

    def apply(self, text: str, *arguments: str) -> str:
        return self("apply", "-f", "-", *arguments, stdin=text)

    def wait_established(self, crd: str) -> None:
        """Until the definition is served. `kubectl wait` itself fails on one so new that it has no conditions yet."""

        def established() -> bool:
            conditions = self.json("get", "crd", crd).get("status", {}).get("conditions") or []
            return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)

        wait_until(established, f"{crd} is established")


@dataclass(frozen=True)
class S3:
    """S3 in the cluster. A namespace gets its credentials by `add_secret`; tests share the bucket, each below a prefix
    of its own.
    """

    kubectl: Kubectl
    endpoint_url: str
    """as pods reach it"""
    outside_url: str
    """as this process reaches it"""
    bucket: str
    access_key: str
    secret_key: str

    def client(self) -> Any:
        """A boto3 client of this process."""
        return boto3.client(
            "s3",
            endpoint_url=self.outside_url,
            region_name="us-east-1",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
        )

    def add_secret(self, namespace: str, name: str = "s3-credentials") -> str:
        """Makes the Secret with the keys AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the namespace; returns its
        name.
        """
        data = {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}
        document = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}
        self.kubectl.create(document, namespace)
        return name


@contextmanager
def fresh_namespace(kubectl: Kubectl, prefix: str) -> Iterator[str]:
    """A namespace of a new name under Pod Security `restricted`; at the end it goes, and its pods at once."""
    name = f"{prefix}-{secrets.token_hex(4)}"
    document = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}}
    kubectl.create(document)
    NAMESPACES.append(name)
    try:
        yield name
    finally:
        NAMESPACES.remove(name)
        kubectl.send("DELETE", f"/api/v1/namespaces/{name}")
        kubectl.send("DELETE", f"/api/v1/namespaces/{name}/pods", {"gracePeriodSeconds": 0})


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = 120) -> Any:
    """The condition's first true value; asked each 0.1 s, or each half second where the answer takes long."""
    timeout_s *= PATIENCE
    deadline = time.monotonic() + timeout_s
    while (asked := time.monotonic()) < deadline:
        if value := condition():
            return value
        time.sleep(min(0.5, max(0.1, 3 * (time.monotonic() - asked))))
    pytest.fail(f"{what}: not so after {timeout_s:.0f} s")


class Parts:
    """A hold on the cluster's own processes, for tests of faults."""

    def kill(self, part: str) -> None:
        """Kills a part (`kube-apiserver`, `node-1-kubelet`, …) at once."""
        os.kill(int((CLUSTER / "pid" / part).read_text()), 9)

    def lose_node(self, number: int, *, zombies: bool = False) -> None:
        """Kills a node's kubelet and containerd, and its containers too unless they shall live on as zombies."""
        script("lose", str(number), *(["--zombies"] if zombies else []))

    def restore(self) -> None:
        """Starts what is not running and waits until both nodes are ready."""
        script("up")
