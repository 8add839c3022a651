"""A real control plane with fake nodes (kwok)."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

HERE: Final = Path(__file__).resolve().parent
OPERATOR: Final = "diht-operator"
"""User of the controller under test: the audit log tells its writes from others'."""
LOADER: Final = "loader"
FAKES: Final = "fakes"
"""User of kwok, which lets the fake pods run."""
PEERS: Final = ("jobset", "trainer")
"""Users of the controllers that it is compared with."""
USERS: Final = {
    "admin": "system:masters",
    OPERATOR: "operators",
    LOADER: "system:masters",
    FAKES: "system:masters",
    **dict.fromkeys(PEERS, "system:masters"),
}
PODS_PER_NODE: Final = 1000
READY_S: Final = 120.0
CONTROLLERS: Final = "job-controller,garbage-collector-controller,namespace-controller,serviceaccount-controller"
"""What a Job's pods need; services get no endpoints, because no pod here talks to another."""
_UNLIMITED: Final = ("--kube-api-qps", "1000", "--kube-api-burst", "2000")


def programs() -> Path:
    """Where `tests/cluster/up` puts what it builds."""
    return Path(os.environ.get("TEST_CLUSTER_DIR", "~/.cache/test-cluster")).expanduser() / "bin"


@dataclass(frozen=True)
class Plane:
    """A running control plane."""

    folder: Path
    programs: Path
    """where kubectl and the parts are."""
    server: str

    @property
    def audit_log(self) -> Path:
        """One JSON object for each request of the operator, and for each write to a run."""
        return self.folder / "audit.jsonl"

    def kubeconfig(self, user: str) -> Path:
        """The credentials of a user of USERS."""
        return self.folder / f"{user}.kubeconfig"

    def kubectl(self, *arguments: str, text: str | None = None) -> str:
        """What kubectl says, as admin."""
        command = [self.programs / "kubectl", "--kubeconfig", self.kubeconfig("admin"), *arguments]
        return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout

    def log_file(self, container: str) -> Path:
        """The file that all fake containers of a name give as their log."""
        return self.folder / f"{container}.log"


@contextlib.contextmanager
def control_plane(folder: Path, programs: Path, *, nodes: int, containers: tuple[str, ...]) -> Iterator[Plane]:
    """Start one and stop it at the end.

    Args:
        folder: for data, logs and credentials.
        programs: etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kwok, kubectl.
        nodes: number of fake nodes, each for PODS_PER_NODE pods.
        containers: names of the containers that have a log.
    """
    with contextlib.ExitStack() as stack:
        parts = _Parts(folder, programs, stack)
        etcd, api, fake, other = _ports(folder)
        plane = Plane(folder, programs, f"https://127.0.0.1:{api}")
        _credentials(folder, plane.server)
        parts.start("etcd", *_etcd(folder, etcd, other))
        parts.start("kube-apiserver", *_apiserver(folder, etcd, api))
        until(lambda: plane.kubectl("get", "--raw", "/readyz"), "the API server", parts.check)
        admin = ("--kubeconfig", str(plane.kubeconfig("admin")))
        parts.start("kube-controller-manager", *_controllers(folder), *admin)
        parts.start("kube-scheduler", *admin, "--leader-elect=false", "--secure-port=0", *_UNLIMITED)
        (folder / "kwok.yaml").write_text(_kwok(plane, containers))
        parts.start("kwok", *_fakes(folder, fake), "--kubeconfig", str(plane.kubeconfig(FAKES)))
        plane.kubectl("apply", "-f", "-", text="---\n".join(_node(number) for number in range(nodes)))
        until(lambda: plane.kubectl("get", "serviceaccount", "default"), "the controllers", parts.check)
        plane.kubectl("wait", "nodes", "--all", "--for=condition=Ready", "--timeout=60s")
        yield plane


def _ports(folder: Path) -> list[int]:
    """Four ports; those of before where the folder has been used, because fake nodes remember where their logs are."""
    file = folder / "ports.json"
    if not file.exists():
        file.write_text(json.dumps([free_port() for _ in range(4)]))
    return json.loads(file.read_text())


def until(condition: Callable[[], Any], what: str, check: Callable[[], None], timeout_s: float = READY_S) -> None:
    """Wait until something is true and does not fail; `check` is called meanwhile and may give up."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with contextlib.suppress(subprocess.CalledProcessError, OSError):
            if condition():
                return
        check()
        time.sleep(0.25)
    raise SystemExit(f"{what}: not there after {timeout_s:.0f} s")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class _Parts:
    """The processes; all end with the stack."""

    def __init__(self, folder: Path, programs: Path, stack: contextlib.ExitStack) -> None:
        self._folder, self._programs, self._stack = folder, programs, stack
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *arguments: str) -> None:
        program = self._programs / name
        if not program.exists():
            raise SystemExit(f"{program} is not there: build it with tests/cluster/up and tests/cluster/extra kwok")
        log = self._stack.enter_context((self._folder / f"{name}.out").open("wb"))
        process = subprocess.Popen([program, *arguments], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self._running[name] = process
        self._stack.callback(stop, process)

    def check(self) -> None:
        for name, process in self._running.items():
            if process.poll() is not None:
                last = (self._folder / f"{name}.out").read_text(errors="replace").splitlines()[-3:]
                raise SystemExit(f"{name} ended with {process.returncode}: " + " | ".join(last))


def stop(process: subprocess.Popen[bytes], grace_s: float = 10.0) -> None:
    """Ask a process to end, then insist."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _credentials(folder: Path, server: str) -> None:
    """One certificate for all that listen, one token for each user."""
    options = [
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=127.0.0.1",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
    ]
    files = ["-keyout", folder / "tls.key", "-out", folder / "tls.crt"]
    if not (folder / "tls.crt").exists():
        subprocess.run(["openssl", *options, *files], check=True, capture_output=True)
    rows = []
    for user, group in USERS.items():
        token = secrets.token_hex(16)
        rows.append(f"{token},{user},{user},{group}\n")
        cluster = {"server": server, "certificate-authority": str(folder / "tls.crt")}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": user, "namespace": "default"}}],
            "current-context": "c",
        }
        _private(folder / f"{user}.kubeconfig", yaml.safe_dump(document))
    _private(folder / "tokens.csv", "".join(rows))
    policy = yaml.safe_dump(_audit_policy())
    (folder / "audit.yaml").write_text(policy)


def _private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


def _audit_policy() -> dict[str, Any]:
    status = [{"group": "diht.dev", "resources": ["dihtruns/status"]}]
    runs = [{"group": "diht.dev", "resources": ["dihtruns"]}]
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived", "ResponseStarted"],
        "rules": [
            {"level": "Request", "users": [OPERATOR], "verbs": ["patch"], "resources": status},
            {"level": "Metadata", "users": [OPERATOR]},
            {
                "level": "Metadata",
                "users": list(PEERS),
                "verbs": ["create", "update", "patch", "delete", "deletecollection"],
            },
            {"level": "Metadata", "users": [LOADER], "verbs": ["create", "patch"], "resources": runs},
            *(
                {
                    "level": "Metadata",
                    "users": [user],
                    "verbs": [verb],
                    "resources": [{"group": "", "resources": [what]}],
                }
                for user, verb, what in (
                    ("admin", "create", "pods"),
                    ("admin", "create", "pods/binding"),
                    (FAKES, "patch", "pods/status"),
                )
            ),
            {"level": "None"},
        ],
    }


def _etcd(folder: Path, client: int, peer: int) -> list[str]:
    client_url, peer_url = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
    return [
        "--name",
        "one",
        "--data-dir",
        str(folder / "etcd"),
        "--unsafe-no-fsync",
        "--quota-backend-bytes",
        str(4 << 30),
        "--listen-client-urls",
        client_url,
        "--advertise-client-urls",
        client_url,
        "--listen-peer-urls",
        peer_url,
        "--initial-advertise-peer-urls",
        peer_url,
        "--initial-cluster",
        f"one={peer_url}",
    ]


def _apiserver(folder: Path, etcd: int, port: int) -> list[str]:
    key, certificate = str(folder / "tls.key"), str(folder / "tls.crt")
    return [
        "--etcd-servers",
        f"http://127.0.0.1:{etcd}",
        "--bind-address",
        "127.0.0.1",
        "--secure-port",
        str(port),
        "--endpoint-reconciler-type",
        "none",
        "--service-cluster-ip-range",
        "10.98.0.0/16",
        "--authorization-mode",
        "RBAC",
        "--token-auth-file",
        str(folder / "tokens.csv"),
        "--tls-cert-file",
        certificate,
        "--tls-private-key-file",
        key,
        "--service-account-issuer",
        "https://kubernetes.default.svc",
        "--service-account-key-file",
        key,
        "--service-account-signing-key-file",
        key,
        "--kubelet-preferred-address-types",
        "InternalIP",
        "--kubelet-client-certificate",
        certificate,
        "--kubelet-client-key",
        key,
        "--audit-policy-file",
        str(folder / "audit.yaml"),
        "--audit-log-path",
        str(folder / "audit.jsonl"),
        "--event-ttl",
        "10m",
        "--cert-dir",
        str(folder),
        "--disable-admission-plugins",
        "TaintNodesByCondition",
    ]


def _controllers(folder: Path) -> list[str]:
    return [
        "--leader-elect=false",
        "--secure-port=0",
        "--controllers",
        CONTROLLERS,
        "--concurrent-job-syncs",
        "20",
        "--service-account-private-key-file",
        str(folder / "tls.key"),
        "--root-ca-file",
        str(folder / "tls.crt"),
        *_UNLIMITED,
    ]


def _fakes(folder: Path, port: int) -> list[str]:
    return [
        "--config",
        str(folder / "kwok.yaml"),
        "--manage-all-nodes=true",
        "--node-ip",
        "127.0.0.1",
        "--node-port",
        str(port),
        "--tls-cert-file",
        str(folder / "tls.crt"),
        "--tls-private-key-file",
        str(folder / "tls.key"),
        "--node-lease-duration-seconds",
        "200",
    ]


def _kwok(plane: Plane, containers: tuple[str, ...]) -> str:
    """How fake pods live (stages.yaml), and where their logs are."""
    logs = [{"containers": [name], "logsFile": str(plane.log_file(name))} for name in containers]
    for name in containers:
        plane.log_file(name).touch()
    document = {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "ClusterLogs",
        "metadata": {"name": "all"},
        "spec": {"selector": {"matchNamespaces": ["default"]}, "logs": logs},
    }
    return (HERE / "_stages.yaml").read_text() + "---\n" + yaml.safe_dump(document)


def _node(number: int) -> str:
    room = {"cpu": "1000", "memory": "4Ti", "pods": str(PODS_PER_NODE)}
    document = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": f"fake-{number}", "labels": {"kubernetes.io/hostname": f"fake-{number}", "ends": "soon"}},
        "status": {"allocatable": room, "capacity": room},
    }
    return yaml.safe_dump(document)
