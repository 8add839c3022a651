"""A second control plane beside the cluster, without nodes, and a real Kueue on it whose MultiKueue knows runs."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import yaml

from tests.cluster.tools import CLUSTER, Kubectl, KubectlError, manifest, wait_until
from tests.ports import free_port
from tests.s3.server import end

KUEUE: Final = "kueue-system"
CERTIFICATES: Final = "kueue-webhook-server-cert"
PKI: Final = CLUSTER / "pki"
LEFT_OUT: Final = ("Deployment", "APIService")
"""What needs nodes: Kueue runs as a process."""


@contextmanager
def second_plane(first: Kubectl, folder: Path) -> Iterator[Kubectl]:
    """An etcd and an API server under the first one's authority; nothing runs pods there, or removes what has lost its
    owner.
    """
    client, peer, port = (free_port() for _ in range(3))
    with ExitStack() as stack:
        stack.enter_context(
            _part(
                "etcd",
                folder,
                [
                    "--name=second",
                    f"--data-dir={folder / 'etcd'}",
                    "--unsafe-no-fsync",
                    f"--initial-cluster=second=http://127.0.0.1:{peer}",
                    f"--listen-client-urls=http://127.0.0.1:{client}",
                    f"--advertise-client-urls=http://127.0.0.1:{client}",
                    f"--listen-peer-urls=http://127.0.0.1:{peer}",
                    f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
                ],
            )
        )
        stack.enter_context(
            _part(
                "kube-apiserver",
                folder,
                [
                    f"--etcd-servers=http://127.0.0.1:{client}",
                    f"--secure-port={port}",
                    "--bind-address=127.0.0.1",
                    "--service-cluster-ip-range=10.92.0.0/16",
                    "--authorization-mode=RBAC",
                    f"--client-ca-file={PKI / 'ca.crt'}",
                    f"--tls-cert-file={PKI / 'apiserver.crt'}",
                    f"--tls-private-key-file={PKI / 'apiserver.key'}",
                    "--service-account-issuer=https://kubernetes.default.svc",
                    f"--service-account-key-file={PKI / 'sa.key'}",
                    f"--service-account-signing-key-file={PKI / 'sa.key'}",
                    "--endpoint-reconciler-type=none",
                ],
            )
        )
        config = yaml.safe_load(first.kubeconfig.read_text())
        config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{port}"
        kubeconfig = folder / "second.kubeconfig"
        kubeconfig.write_text(yaml.safe_dump(config))
        plane = Kubectl(first.program, kubeconfig)
        wait_until(lambda: _ready(plane), "the second API server")
        yield plane


@contextmanager
def _part(program: str, folder: Path, arguments: list[str], **environment: str) -> Iterator[None]:
    """A part of a control plane as a process, its output in a file that a failed test shows."""
    log = folder / f"{program}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [CLUSTER / "bin" / program, *arguments],
            stdout=file,
            stderr=file,
            cwd=folder,
            env={**os.environ, **environment},
        )
        try:
            yield
        finally:
            end(process)
            print(f"{program}: {log.read_text()[-4000:]}")


def _ready(plane: Kubectl) -> bool:
    try:
        return plane("get", "--raw", "/readyz") == "ok"
    except KubectlError:
        return False


@contextmanager
def multi_kueue(plane: Kubectl, worker: Kubectl, namespace: str, folder: Path) -> Iterator[None]:
    """Kueue on a plane, and the queue `one` of a namespace, whose Workloads go to the worker's queue of that name."""
    _install(plane)
    certificates, config = folder / "certificates", folder / "kueue.yaml"
    certificates.mkdir()
    config.write_text(manifest("multikueue.yaml", certificates=str(certificates), port=free_port()))
    with _part("kueue", folder, [f"--config={config}"], KUBECONFIG=str(plane.kubeconfig)):
        secret = wait_until(lambda: _filled(plane), "the certificates of the second Kueue")
        for name, value in secret.items():  # in a pod they come by a volume
            (certificates / name).write_bytes(base64.b64decode(value))
        kubeconfig = base64.b64encode(worker.kubeconfig.read_bytes()).decode()
        plane.apply(manifest("multikueue-queue.yaml", namespace=namespace, kubeconfig=kubeconfig))
        wait_until(lambda: _active(plane, f"clusterqueue/{namespace}"), "a queue that leads to the other cluster")
        yield


def _install(plane: Kubectl) -> None:
    """Kueue's definitions and rights, as the cluster's own Kueue has them; its webhooks, which nobody can reach, are
    never asked.
    """
    documents = list(yaml.safe_load_all(plane("kustomize", str(CLUSTER / "kueue/default"))))
    for document in documents:
        for hook in document.get("webhooks", []):
            hook["rules"] = [
                {"apiGroups": ["none"], "apiVersions": ["*"], "operations": ["CREATE"], "resources": ["none"]}
            ]
        if document["kind"] == "CustomResourceDefinition":
            for version in document["spec"]["versions"]:
                version["served"] = version["storage"]
    kept = [each for each in documents if each["kind"] not in LEFT_OUT]
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": kept})
    plane("apply", "--server-side", "-f", "-", stdin=text, timeout_s=120)


def _filled(plane: Kubectl) -> dict[str, str]:
    return plane.json("get", "secret", CERTIFICATES, "--namespace", KUEUE).get("data") or {}


def _active(plane: Kubectl, name: str) -> bool:
    conditions: list[dict[str, Any]] = plane.json("get", name).get("status", {}).get("conditions", [])
    return any(each["type"] == "Active" and each["status"] == "True" for each in conditions)
