"""The operator as a process of this machine under its own identity and rights, and runs whose stages are stubs without
torch.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.cluster import forked
from tests.cluster.tools import CLUSTER, PROJECT, Kubectl, KubectlError, cannot, fresh_namespace, manifest, wait_until
from tests.ports import free_port
from tests.recipe.train.fork_server import Forked

FAULTS = [{"condition": "TestFault"}, {"condition": "UrgentTestFault", "move": "AtOnce"}]
"""Faults of nodes that only tests report."""
RBAC = "rbac.authorization.k8s.io/v1"


@dataclass
class Operator:
    """An operator process that serves one namespace."""

    namespace: str
    kubeconfig: Path
    log: Path
    options: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | Forked | None = None
    port: int = field(default_factory=free_port)
    program: str = "diht_k8s.controller"
    code: Path = PROJECT
    """the folder whose packages it runs."""

    @property
    def user(self) -> str:
        """Its name in the audit log."""
        return f"system:serviceaccount:{self.namespace}:diht-operator"

    def start(self) -> Operator:
        words = [self.program, "--namespace", self.namespace, "--port", str(self.port), "--address", "127.0.0.1"]
        words += ["--node-faults", json.dumps(FAULTS), "--log-format", "text", *(self.options or ("--no-lease",))]
        env = {**os.environ, "KUBECONFIG": str(self.kubeconfig), "PYTHONPATH": str(self.code)}
        with self.log.open("ab") as log:
            if self.code == PROJECT and "--no-lease" in words:  # a Lease wants a process id known from the first import
                self.process = forked.start("operate", *words, variables=env, output=log)
            else:
                command = [sys.executable, "-P", "-m", *words]
                self.process = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=PROJECT)
        return self

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM, as Kubernetes stops a pod; SIGKILL where that does not help."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)


@functools.cache
def define(kubectl: Kubectl) -> None:
    """The CRD and the operator's rights, once in a process."""
    crd, role = str(PROJECT / "manifests/crd/diht.dev_dihtruns.yaml"), json.dumps(_rbac("ClusterRole"))
    kubectl("apply", "--server-side", "--force-conflicts", "-f", crd)
    kubectl.wait_established("dihtruns.diht.dev")
    kubectl.apply(role, "--server-side", "--force-conflicts")  # tests side by side may make it at once


def install(kubectl: Kubectl, namespace: str, folder: Path) -> Path:
    """The CRD, the operator's rights in one namespace, and a kubeconfig with its token."""
    define(kubectl)
    for kind in ("Role", "RoleBinding"):  # of the Lease
        document = _rbac(kind)
        kubectl.create({**document, "metadata": {**document["metadata"], "namespace": namespace}}, namespace)
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "diht-operator"}}
    kubectl.create(account, namespace)
    kubectl.create(binding(namespace, "RoleBinding", "diht-operator"), namespace)
    # What has no namespace cannot be granted in one.
    wide = f"diht-operator-{namespace}"
    cluster_wide = ("nodes", "resourceflavors", "workloadpriorityclasses", "priorityclasses")
    rules = [each for each in _rbac("ClusterRole")["rules"] if each["resources"][0] in cluster_wide]
    kubectl.create({"apiVersion": RBAC, "kind": "ClusterRole", "metadata": {"name": wide}, "rules": rules})
    kubectl.create(binding(namespace, "ClusterRoleBinding", wide))
    return operator_kubeconfig(kubectl, namespace, folder)


def binding(namespace: str, kind: str, role: str) -> dict[str, Any]:
    """The operator of a namespace has the rights of a ClusterRole."""
    return {
        "apiVersion": RBAC,
        "kind": kind,
        "metadata": {"name": role},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": "diht-operator", "namespace": namespace}],
    }


def operator_kubeconfig(kubectl: Kubectl, namespace: str, folder: Path) -> Path:
    """A kubeconfig with the token of the operator's service account, which is there."""
    account = f"/api/v1/namespaces/{namespace}/serviceaccounts/diht-operator"
    token = kubectl.send("POST", f"{account}/token", {"spec": {"expirationSeconds": 3 * 3600}})["status"]["token"]
    config = yaml.safe_load(kubectl.kubeconfig.read_text())
    config["users"] = [{"name": "operator", "user": {"token": token}}]
    for context in config["contexts"]:
        context["context"]["user"] = "operator"
    path = folder / "operator.kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path


def _rbac(kind: str) -> dict[str, Any]:
    """The first object of a kind among the operator's rights."""
    documents = yaml.safe_load_all((PROJECT / "manifests/base/rbac.yaml").read_text())
    return next(each for each in documents if each["kind"] == kind)


@contextmanager
def claimed(kubectl: Kubectl, name: str, namespace: str, folder: Path) -> Iterator[None]:
    """A folder of this machine, which carries both nodes, as a volume and the namespace's claim of that name."""
    text = manifest(f"{name}-volume.yaml", namespace=namespace, path=str(folder))
    volume, claim = yaml.safe_load_all(text)
    kubectl.create(volume)
    kubectl.create(claim, namespace)
    try:
        yield
    finally:
        kubectl.send("DELETE", f"/api/v1/persistentvolumes/{name}-{namespace}")


@contextmanager
def output_folder(kubectl: Kubectl, namespace: str) -> Iterator[Path]:
    """A folder of this machine that pods see as /output."""
    if kubectl.kubeconfig.resolve() != (CLUSTER / "kubeconfig").resolve():
        cannot("KUBECONFIG is another cluster's: its pods cannot share a folder of this machine")
    folder = CLUSTER / "output" / namespace
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    try:
        with claimed(kubectl, "output", namespace, folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def project(kubectl: Kubectl, namespace: str) -> Iterator[dict[str, Any]]:
    """This checkout as a volume at /project, as the fixture project_volume has it."""
    with claimed(kubectl, "project", namespace, PROJECT):
        yield {
            "volumes": [{"name": "project", "persistentVolumeClaim": {"claimName": "project", "readOnly": True}}],
            "mounts": [{"name": "project", "mountPath": "/project", "readOnly": True}],
        }


@dataclass(frozen=True)
class World:
    """A namespace with an operator and runs of stub programs."""

    kubectl: Kubectl
    namespace: str
    operator: Operator
    runs: Runs


@contextmanager
def world(
    kubectl: Kubectl, image: str, folder: Path, *, start: bool = True, options: tuple[str, ...] = ()
) -> Iterator[World]:
    """A fresh one; it goes with its namespace. `options` are the operator's."""
    with ExitStack() as stack:
        namespace = stack.enter_context(fresh_namespace(kubectl, "op"))
        output = stack.enter_context(output_folder(kubectl, namespace))
        volume = stack.enter_context(project(kubectl, namespace))
        for kind in ("clusterroles", "clusterrolebindings"):
            stack.callback(kubectl.send, "DELETE", f"/apis/{RBAC}/{kind}/diht-operator-{namespace}")
        operator = Operator(namespace, install(kubectl, namespace, folder), folder / "operator.log", options)
        stack.callback(lambda: print(operator.log.read_text()[-8000:] if operator.log.exists() else "not started"))
        stack.callback(operator.stop)
        if start:
            operator.start()
        yield World(kubectl, namespace, operator, Runs(kubectl, namespace, image, volume, output))


@dataclass(frozen=True)
class Runs:
    """Creates and reads runs of one namespace."""

    kubectl: Kubectl
    namespace: str
    image: str
    project: dict[str, Any]
    folder: Path
    made: list[str] = field(default_factory=list)

    def document(self, name: str, stub: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
        """A run of all four stages, each of which ends as the stub says (see tests/stub_programs)."""
        packages = Path(sysconfig.get_path("purelib")).relative_to(PROJECT)
        env = {
            "DIHT_PROGRAMS": "stub_programs",
            "DIHT_STUB": json.dumps(stub or {}),
            "PYTHONPATH": f"/project/{packages}:/project:/project/tests",
            "DIHT_PROGRESS_SECONDS": "0.5",
        }
        pods = {
            "image": self.image,
            "imagePullPolicy": "IfNotPresent",
            "terminationGracePeriodSeconds": 30,
            "env": [{"name": key, "value": value} for key, value in env.items()],
            "volumes": [
                *self.project["volumes"],
                {"name": "output", "persistentVolumeClaim": {"claimName": "output"}},
            ],
            "volumeMounts": [*self.project["mounts"], {"name": "output", "mountPath": "/output"}],
        }
        base = {
            "data": {
                "sources": [{"name": "web", "shards": ["/output/none.tar"]}],
                "output": f"file:///output/{name}",
            },
            "filter": {},
            "label": {},
            "train": {"model": "ViT-B-16", "samples": 8, "batchSize": 8, "distillation": {"mode": "Disabled"}},
            "evaluate": {"benchmarks": [{"name": "b", "type": "Retrieval", "shards": ["/output/none.tar"]}]},
            "pods": pods,
        }
        merged = {**base, **spec}
        merged = {key: value for key, value in merged.items() if value is not None}
        return {"apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "metadata": {"name": name}, "spec": merged}

    def apply(self, name: str, stub: dict[str, Any] | None = None, **spec: Any) -> str:
        self.kubectl.create(self.document(name, stub, **spec), self.namespace)
        return name

    def patch(self, name: str, spec: dict[str, Any]) -> None:
        self.kubectl.send("PATCH", self.path(name), {"spec": spec})

    def delete(self, name: str) -> None:
        """Without waiting for the end."""
        self.kubectl.send("DELETE", self.path(name))

    def path(self, name: str) -> str:
        return f"/apis/diht.dev/v1alpha1/namespaces/{self.namespace}/dihtruns/{name}"

    def get(self, name: str) -> dict[str, Any]:
        return self.kubectl.read(self.path(name))

    def gone(self, name: str) -> bool:
        """Whether the API server says that there is no such run."""
        try:
            self.get(name)
        except KubectlError as error:
            return "not found" in str(error)
        return False

    def status(self, name: str) -> dict[str, Any]:
        return self.get(name).get("status", {})

    def condition(self, name: str, kind: str) -> dict[str, Any]:
        return condition(self.status(name), kind)

    def wait_for(self, name: str, kind: str, reason: str | None = None, timeout_s: float = 90) -> dict[str, Any]:
        """The status as soon as a condition is True, or has the reason."""

        def there() -> dict[str, Any] | None:
            status = self.status(name)
            found = condition(status, kind)
            good = found.get("reason") == reason if reason else found.get("status") == "True"
            other = condition(status, "Failed")
            assert good or other.get("status") != "True" or reason, f"{name} failed: {other}"
            return status if good else None

        try:
            return wait_until(there, f"{name}: {kind} {reason or ''}", timeout_s)
        except BaseException:
            print(json.dumps(self.status(name), indent=1))
            raise

    def wait_begun(self, name: str, part: str, times: int = 1) -> None:
        """Wait until worker 0's stub program has counted that it began: a pod that ends before does the same again."""
        counted = self.folder / name / f"attempts-{part}-0"
        wait_until(
            lambda: counted.exists() and len(counted.read_bytes()) == times, f"start {times} of {part} of {name}"
        )

    def events(self, name: str) -> list[str]:
        path = f"/api/v1/namespaces/{self.namespace}/events?fieldSelector=involvedObject.name={name}"
        return [event["reason"] for event in self.kubectl.read(path)["items"]]

    def children(self, name: str) -> dict[str, str]:
        """Names of the Jobs of a run, with their UIDs."""
        jobs = self.kubectl.read(f"/apis/batch/v1/namespaces/{self.namespace}/jobs?labelSelector=diht.dev/run={name}")
        return {job["metadata"]["name"]: job["metadata"]["uid"] for job in jobs["items"]}

    def pods(self, name: str) -> list[dict[str, Any]]:
        return self.kubectl.read(f"/api/v1/namespaces/{self.namespace}/pods?labelSelector=diht.dev/run={name}")["items"]


def programs(host: str) -> Iterator[int]:
    """The processes of a pod, as this machine numbers them, which carries the nodes."""
    wanted = f"HOSTNAME={host}".encode()
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            environment = (process / "environ").read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        if wanted in environment:
            yield int(process.name)


def kill_program(host: str) -> None:
    """SIGKILL to process 1 of a pod, from this machine: inside the pod it would be ignored. Runs of tests side by side
    whose pods are killed have names of their own.
    """
    for process in programs(host):
        os.kill(process, signal.SIGKILL)


def condition(status: dict[str, Any], kind: str) -> dict[str, Any]:
    return next((each for each in status.get("conditions", []) if each["type"] == kind), {})


def stages(status: dict[str, Any]) -> dict[str, Any]:
    return {stage["name"]: stage for stage in status.get("stages", [])}


@contextmanager
def faulty(kubectl: Kubectl, node: str, fault: str) -> Iterator[None]:
    """A node with a condition, as a monitor sets it."""

    def report(status: str) -> None:
        condition = {"type": fault, "status": status, "reason": "Test", "message": "a fault that a test reports"}
        patch = json.dumps({"status": {"conditions": [condition]}})
        kubectl("patch", "node", node, "--subresource=status", "--type=strategic", "-p", patch)

    report("True")
    try:
        yield
    finally:
        report("False")


@contextmanager
def one_slot_each(kubectl: Kubectl, resource: str) -> Iterator[None]:
    """Each node of the scripts' cluster has one of a resource that no device plugin gives."""
    with slots(kubectl, resource, (1, 1)):
        yield


@contextmanager
def slots(kubectl: Kubectl, resource: str, amounts: tuple[int, int]) -> Iterator[None]:
    """Node 0 and node 1 have these amounts of a resource that no device plugin gives."""
    for number, amount in enumerate(amounts):
        offer(kubectl, resource, number, str(amount))
    try:
        yield
    finally:
        for number in range(len(amounts)):
            offer(kubectl, resource, number, None)


def offer(kubectl: Kubectl, resource: str, number: int, amount: str | None) -> None:
    """A node has this amount of a resource from now on; None: it does not know it."""
    status = {"capacity": {resource: amount}, "allocatable": {resource: amount}}
    kubectl.send("PATCH", f"/api/v1/nodes/node-{number}/status", {"status": status})


@contextmanager
def tainted(kubectl: Kubectl, node: str, key: str) -> Iterator[None]:
    """A node that takes only pods that tolerate the taint."""
    kubectl("taint", "node", node, f"{key}:NoSchedule")
    try:
        yield
    finally:
        kubectl("taint", "node", node, f"{key}-")


def why(runs: Runs, name: str, code: Path = PROJECT) -> str:
    """What `diht status` says of a run, with the packages of a folder."""
    words, kubeconfig = ["status", name, "--namespace", runs.namespace], str(runs.kubectl.kubeconfig)
    if code == PROJECT:
        return forked.call(*words, KUBECONFIG=kubeconfig).stdout
    command = [sys.executable, "-P", "-m", "diht_k8s.cli", *words]
    env = {**os.environ, "KUBECONFIG": kubeconfig, "PYTHONPATH": str(code)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, env=env, timeout=120)
    return done.stdout + done.stderr


def evict(runs: Runs, pod: str) -> None:
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": runs.namespace}}
    path = f"/api/v1/namespaces/{runs.namespace}/pods/{pod}/eviction"
    runs.kubectl.send("POST", path, eviction)


APART = {
    "podAntiAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {
                "weight": 100,
                "podAffinityTerm": {
                    "topologyKey": "kubernetes.io/hostname",
                    "labelSelector": {"matchLabels": {"diht.dev/stage": "train"}},
                },
            },
        ]
    }
}
"""Pods of a gang on different nodes."""
