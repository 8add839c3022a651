"""Other operators of trainings: how each is installed, started and told of a job."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil
import yaml

from benchmarks._load import NAMESPACE, document
from benchmarks._plane import OPERATOR, Plane, free_port, programs, stop, until
from benchmarks._process import EVERY_S, controller
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.controller.cache.runs import cached_run
from diht_k8s.controller.job_builder import build_objects
from diht_k8s.pipeline.plan import Start

JOBSET: Final = ("sigs.k8s.io/jobset", "v0.12.0", ".")
TRAINER: Final = ("github.com/kubeflow/trainer/v2", "v2.3.0", "./cmd/trainer-controller-manager")
"""Module, version, package of the program."""
NAMES: Final = ("ours", "jobset", "trainer")
RESTARTS: Final = 100
_NAME: Final = "jobset.sigs.k8s.io/jobset-name"
_ENV: Final = {**os.environ, "GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}

Json = dict[str, Any]


@dataclass(frozen=True)
class Peer:
    """One operator: what its jobs look like, and by what its pods are found."""

    name: str
    title: str
    group: str
    version: str
    plural: str
    label: str
    """of its pods, with the job's name."""
    users: tuple[str, ...]
    """of its controllers, in the audit log."""

    def document(self, name: str, pods: int) -> Json:
        """A training of some pods, which start again together when one of them fails."""
        return {"ours": _run, "jobset": _jobset, "trainer": _trainjob}[self.name](name, pods)


PEERS: Final = {
    "ours": Peer("ours", "diht-k8s", "diht.dev", "v1alpha1", "dihtruns", "diht.dev/run", (OPERATOR,)),
    "jobset": Peer("jobset", f"JobSet {JOBSET[1]}", "jobset.x-k8s.io", "v1alpha2", "jobsets", _NAME, ("jobset",)),
    "trainer": Peer(
        "trainer",
        f"Kubeflow Trainer {TRAINER[1]} over JobSet {JOBSET[1]}",
        "trainer.kubeflow.org",
        "v1alpha1",
        "trainjobs",
        _NAME,
        ("trainer", "jobset"),
    ),
}


def _run(name: str, pods: int) -> Json:
    made = document(name, pods, gang=True)
    del made["spec"]["evaluate"]
    made["spec"]["failurePolicy"] = {"maxRestarts": RESTARTS}
    return made


def _job(pods: int) -> Json:
    """With the very pods of our operator's Job, but for their own names for each other."""
    made = _run("job-00000", pods)
    made["metadata"] |= {"namespace": NAMESPACE, "uid": str(uuid.UUID(int=0)), "resourceVersion": "1", "generation": 1}
    start = Start(Stage.TRAIN, 1, "job-00000-train-1")
    *_, job = build_objects(cached_run({**made, "status": {}}), DihtRun.model_validate(_run("job-00000", pods)), start)
    template = {"spec": job["spec"]["template"]["spec"]}
    template["spec"].pop("subdomain", None)  # of one pod there is none
    template["spec"]["containers"][0]["name"] = "node"
    return {"backoffLimit": 0, "completions": pods, "parallelism": pods, "template": template}


def _jobset(name: str, pods: int) -> Json:
    spec = {
        "failurePolicy": {"maxRestarts": RESTARTS},
        "replicatedJobs": [{"name": "node", "template": {"spec": _job(pods)}}],
    }
    return {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": {"name": name}, "spec": spec}


def _trainjob(name: str, pods: int) -> Json:
    spec = {"runtimeRef": {"name": "bench"}, "trainer": {"numNodes": pods, "image": "example.org/recipe:1"}}
    return {"apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "TrainJob", "metadata": {"name": name}, "spec": spec}


def _runtime() -> Json:
    """Trainer's own runtime for torch, with the restarts that the others have."""
    job = _job(1)
    del job["completions"], job["parallelism"]
    step = {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}}
    jobs = [{"name": "node", "template": {"metadata": step, "spec": job}}]
    template = {"spec": {"failurePolicy": {"maxRestarts": RESTARTS}, "replicatedJobs": jobs}}
    spec = {"mlPolicy": {"numNodes": 1, "torch": {}}, "template": template}
    metadata = {"name": "bench", "labels": {"trainer.kubeflow.org/framework": "torch"}}
    kind = {"apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "ClusterTrainingRuntime"}
    return {**kind, "metadata": metadata, "spec": spec}


def source(module: tuple[str, str, str]) -> Path:
    """The folder of a module's sources, fetched by Go if it is not there."""
    work = programs().parent / "peers"
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "go.mod").exists():
        subprocess.run(["go", "mod", "init", "peers"], cwd=work, env=_ENV, check=True, capture_output=True)
    command = ["go", "mod", "download", "-json", f"{module[0]}@{module[1]}"]
    done = subprocess.run(command, cwd=work, env=_ENV, check=True, capture_output=True, text=True)
    return Path(json.loads(done.stdout)["Dir"])


def program(name: str, module: tuple[str, str, str]) -> Path:
    """The program of a module, built in one to three minutes unless it is there."""
    path = programs() / f"{name}-{module[1]}"
    if not path.exists():
        copy = programs().parent / "peers" / name
        shutil.copytree(source(module), copy, dirs_exist_ok=True)
        subprocess.run(["chmod", "-R", "u+w", str(copy)], check=True)
        command = ["go", "build", "-ldflags", "-s -w", "-o", str(path), module[2]]
        subprocess.run(command, cwd=copy, env=_ENV, check=True)
    return path


class Usage:
    """Processor time and memory of processes, from outside."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._seen = [psutil.Process(pid) for pid in pids]
        self.peak_mib = 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def cpu_s(self) -> float:
        """Processor time so far, of all together."""
        return sum(times.user + times.system for times in (each.cpu_times() for each in self._seen))

    def _watch(self) -> None:
        with contextlib.suppress(psutil.Error):
            while True:
                self.peak_mib = max(self.peak_mib, sum(each.memory_info().rss for each in self._seen) / 2**20)
                time.sleep(EVERY_S)


@contextlib.contextmanager
def started(plane: Plane, peer: Peer) -> Iterator[Usage]:
    """Its controllers, as long as the `with` lasts."""
    if peer.name == "ours":
        with controller(plane) as process:
            process.wait(process.is_ready, "the controller")
            yield Usage([process.pid])
        return
    with contextlib.ExitStack() as stack:
        processes = [_jobset_controller(plane, stack)]
        if peer.name == "trainer":
            processes.append(_trainer_controller(plane, stack))
        yield Usage([each.pid for each in processes])


def _jobset_controller(plane: Plane, stack: contextlib.ExitStack) -> subprocess.Popen[bytes]:
    folder, port, health = plane.folder, free_port(), free_port()
    root = source(JOBSET) / "config/components"
    plane.kubectl("apply", "--server-side", "-k", str(root / "crd"))
    config: Json = {
        "apiVersion": "config.jobset.x-k8s.io/v1alpha1",
        "kind": "Configuration",
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": False},
        "webhook": {"port": port, "host": "127.0.0.1", "certDir": str(_certificates(folder))},
        "metrics": {"bindAddress": "0"},
        "health": {"healthProbeBindAddress": f"127.0.0.1:{health}"},
    }
    options = ["--metrics-bind-address=0", f"--health-probe-bind-address=127.0.0.1:{health}"]
    process = _process(plane, stack, "jobset", program("jobset", JOBSET), config, options)
    _serve_webhooks(plane, root / "webhook/manifests.yaml", port, "jobset-")
    _until_served(plane, process, _jobset("probe", 1))
    return process


def _trainer_controller(plane: Plane, stack: contextlib.ExitStack) -> subprocess.Popen[bytes]:
    port, health = free_port(), free_port()
    root = source(TRAINER) / "manifests/base"
    plane.kubectl("apply", "--server-side", "-k", str(root / "crds"))
    plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    config: Json = {
        "apiVersion": "config.trainer.kubeflow.org/v1alpha1",
        "kind": "Configuration",
        "health": {"healthProbeBindAddress": f"127.0.0.1:{health}"},
        "metrics": {"bindAddress": "0"},
        "webhook": {"port": port, "host": "127.0.0.1"},
        "leaderElection": {"leaderElect": False},
        "certManagement": {"enable": False},
        "statusServer": {"port": free_port()},
    }
    process = _process(plane, stack, "trainer", program("trainer", TRAINER), config, [])
    _serve_webhooks(plane, root / "webhook/manifests.yaml", port, "trainer-")
    runtime = yaml.safe_dump(_runtime())
    until(
        lambda: plane.kubectl("apply", "-f", "-", text=runtime),
        "Trainer's webhooks",
        lambda: _check(process, "trainer"),
    )
    _until_served(plane, process, _trainjob("probe", 1))
    return process


def _process(
    plane: Plane, stack: contextlib.ExitStack, name: str, path: Path, config: Json, options: list[str]
) -> subprocess.Popen[bytes]:
    file, temporary = plane.folder / f"{name}.yaml", _certificates(plane.folder).parents[1]
    file.write_text(yaml.safe_dump(config))
    log = stack.enter_context((plane.folder / f"{name}.out").open("ab"))
    env = {**os.environ, "KUBECONFIG": str(plane.kubeconfig(name)), "TMPDIR": str(temporary)}
    command = [str(path), f"--config={file}", *options]
    process = subprocess.Popen(command, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    stack.callback(stop, process)
    return process


def _certificates(folder: Path) -> Path:
    """The plane's own certificate where controller-runtime looks for it, below its temporary folder."""
    found = folder / "k8s-webhook-server/serving-certs"
    found.mkdir(parents=True, exist_ok=True)
    for name in ("tls.crt", "tls.key"):
        shutil.copy(folder / name, found / name)
    return found


def _serve_webhooks(plane: Plane, manifest: Path, port: int, prefix: str) -> None:
    """Register the module's webhooks, as it has them, at the address of a process of this machine."""
    bundle = base64.b64encode((plane.folder / "tls.crt").read_bytes()).decode()
    documents = [each for each in yaml.safe_load_all(manifest.read_text()) if each]
    for each in documents:
        each["metadata"]["name"] = prefix + each["metadata"]["name"]
        for webhook in each["webhooks"]:
            path = webhook["clientConfig"]["service"]["path"]
            webhook["clientConfig"] = {"url": f"https://127.0.0.1:{port}{path}", "caBundle": bundle}
    plane.kubectl("apply", "-f", "-", text=yaml.safe_dump_all(documents))


def _until_served(plane: Plane, process: subprocess.Popen[bytes], probe: Json) -> None:
    text = yaml.safe_dump(probe)
    until(
        lambda: plane.kubectl("create", "--dry-run=server", "-f", "-", text=text),
        f"the webhooks of {probe['kind']}",
        lambda: _check(process, probe["kind"]),
    )


def _check(process: subprocess.Popen[bytes], name: str) -> None:
    if process.poll() is not None:
        raise SystemExit(f"the controller of {name} ended with {process.returncode}: see its log")


def removed(plane: Plane, peer: Peer) -> None:
    """Take the webhooks of a peer away, whose process is gone."""
    kinds = "mutatingwebhookconfigurations,validatingwebhookconfigurations"
    if peer.name != "ours":
        plane.kubectl("delete", kinds, "--all")
