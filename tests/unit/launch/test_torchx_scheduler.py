"""The scheduler plugin over a cluster in memory: what it creates, changes and deletes, and what it refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from torchx.components.dist import torchrun
from torchx.runner import Runner
from torchx.schedulers import get_scheduler_factories
from torchx.schedulers.api import Stream
from torchx.specs import AppDef, AppState, InvalidRunConfigException, Role, Workspace

from diht_k8s.api.errors import UserError
from diht_k8s.launch.app_description import CANCELLED_ANNOTATION
from diht_k8s.launch.torchx_scheduler import KubernetesJobScheduler, create_scheduler

APP = AppDef("app", roles=[Role(name="main", image="app:1", entrypoint="run", num_replicas=2, port_map={"a": 1})])
TWO = AppDef("app", roles=[*APP.roles, Role(name="side", image="app:1", entrypoint="run")])


class Cluster:
    """Objects by kind and name. `refuse` is the kind whose creation fails."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.asked: list[str] = []
        self.refuse = ""
        self.stranger = False
        """Whether somebody else's pod has the labels of the application's."""

    def create(self, item: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        name = item["metadata"]["name"]
        self.asked.append(f"{'try' if dry_run else 'create'} {item['kind']}")
        if item["kind"] == self.refuse:
            raise UserError(f"cannot create {self.refuse}")
        made = {**item, "metadata": {**item["metadata"], "uid": f"uid-{name}"}}
        if not dry_run:
            self.objects[item["kind"], name] = made
        return made

    def items(self, kind: str, namespace: str, selector: str) -> list[dict[str, Any]]:
        return self.jobs(namespace, selector) if kind == "Job" else self.pods(namespace, selector)

    def jobs(self, namespace: str, selector: str) -> list[dict[str, Any]]:
        key, _, value = selector.partition("=")
        return [
            item
            for (kind, _), item in self.objects.items()
            if kind == "Job" and item["metadata"]["namespace"] == namespace and item["metadata"]["labels"][key] == value
        ]

    def pods(self, namespace: str, selector: str) -> list[dict[str, Any]]:
        job = self.jobs(namespace, selector)[0]["metadata"]
        owner = {"kind": "Job", "name": job["name"], "uid": job["uid"], "controller": True}
        pods = [
            {
                "metadata": {
                    "uid": str(i),
                    "name": str(i),
                    "namespace": namespace,
                    "creationTimestamp": "2026",
                    "labels": {"batch.kubernetes.io/job-completion-index": str(i)},
                    "ownerReferences": [owner],
                },
                "spec": {},
                "status": {"containerStatuses": [{"name": "main", "state": {"terminated": {"exitCode": 0}}}]},
            }
            for i in range(2)
        ]
        stranger = {
            **pods[1],
            "metadata": {**pods[1]["metadata"], "uid": "s", "name": "stranger", "ownerReferences": []},
        }
        return [*pods, stranger] if self.stranger else pods

    def patch_job(self, namespace: str, name: str, patch: dict[str, Any]) -> None:
        item = self.objects["Job", name]
        item["metadata"]["annotations"] = patch["metadata"]["annotations"]
        item["spec"] |= patch["spec"]

    def delete_job(self, namespace: str, name: str, *, policy: str) -> None:
        del self.objects["Job", name]

    def log(self, namespace: str, pod: str, *, container: str, **_: Any) -> Iterator[bytes]:
        yield f"{datetime.now(UTC).isoformat()} {container} of pod {pod}".encode()


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def runner(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Runner:
    monkeypatch.setattr(KubernetesJobScheduler, "_cluster", lambda self: cluster)
    return Runner("torchx", {"kubernetes": create_scheduler})


@pytest.mark.parametrize("name", ["kubernetes", "kubernetes_job"])
def test_plugin_takes_the_place_of_stock_kubernetes_and_leaves_the_others(name: str) -> None:
    factories = get_scheduler_factories()
    assert isinstance(factories[name]("session"), KubernetesJobScheduler)
    assert {"local_cwd", "local_docker", "slurm"} <= set(factories)


def test_service_belongs_to_the_jobs_so_that_it_goes_with_them(runner: Runner, cluster: Cluster) -> None:
    handle = runner.run(TWO, "kubernetes", {"namespace": "ns"})
    name = handle.partition("ns:")[2]
    assert handle == f"kubernetes://torchx/ns:{name}"
    service = cluster.objects["Service", name]
    assert [(owner["kind"], owner["name"], owner["uid"]) for owner in service["metadata"]["ownerReferences"]] == [
        ("Job", f"{name}-{role}", f"uid-{name}-{role}") for role in ("main", "side")
    ]


def test_application_with_a_refused_object_leaves_nothing(runner: Runner, cluster: Cluster) -> None:
    cluster.refuse = "Service"
    with pytest.raises(UserError, match="cannot create Service"):
        runner.run(TWO, "kubernetes")
    assert not cluster.objects


def test_dry_run_asks_no_cluster_and_prints_a_manifest(runner: Runner, cluster: Cluster) -> None:
    info = runner.dryrun(APP, "kubernetes", {"queue": "q"})
    assert not cluster.asked
    assert [item["kind"] for item in yaml.safe_load_all(str(info))] == ["Job", "Service"]


def test_dry_run_with_validate_spec_asks_the_api_server(runner: Runner, cluster: Cluster) -> None:
    runner.dryrun(APP, "kubernetes", {"validate_spec": True})
    assert cluster.asked == ["try Job", "try Service"]


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        ({"bogus": 1}, "Unknown run option `bogus`. Valid options are: active_deadline_seconds"),
        ({"image_pull_policy": "never"}, "image_pull_policy=never: write one of Always, IfNotPresent, Never"),
        ({"active_deadline_seconds": "1"}, "active_deadline_seconds, must be of type: int"),
    ],
)
def test_wrong_option_is_refused(runner: Runner, cfg: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRunConfigException, match=re.escape(words)):
        runner.dryrun(APP, "kubernetes", cfg)


def test_options_are_read_from_the_command_line(runner: Runner) -> None:
    text = "image_pull_secrets=a;b,ttl_seconds_after_finished=5,validate_spec=false"
    cfg = runner.scheduler_run_opts("kubernetes").cfg_from_str(text)
    job = runner.dryrun(APP, "kubernetes", cfg).request.objects[0]
    assert job["spec"]["ttlSecondsAfterFinished"] == 5
    assert job["spec"]["template"]["spec"]["imagePullSecrets"] == [{"name": "a"}, {"name": "b"}]


def test_job_id_in_the_environment_is_the_handle(runner: Runner, cluster: Cluster) -> None:
    handle = runner.run(APP, "kubernetes", {"namespace": "ns"})
    (job,) = cluster.jobs("ns", "app.kubernetes.io/name=app")
    env = {item["name"]: item.get("value") for item in job["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert env["TORCHX_JOB_ID"] == handle


def test_working_directory_is_no_workspace_without_a_repository_to_push_to(runner: Runner) -> None:
    info = runner.dryrun(APP, "kubernetes", workspace=Workspace.from_str("file:///tmp"))
    assert info.request.objects[0]["spec"]["template"]["spec"]["containers"][0]["image"] == "app:1"


def test_overlay_file_of_the_application_holds_for_its_roles(runner: Runner, tmp_path: Path) -> None:
    path = tmp_path / "overlay.json"
    path.write_text(json.dumps({"spec": {"nodeSelector": {"zone": "a"}}}))
    app = torchrun(m="a", image="app:1", metadata={"kubernetes": str(path)})
    spec = runner.dryrun(app, "kubernetes").request.objects[0]["spec"]["template"]["spec"]
    assert spec["nodeSelector"] == {"zone": "a"}
    assert app.roles[0].metadata == {}


def test_cancelled_job_ends_and_stays(runner: Runner, cluster: Cluster) -> None:
    handle = runner.run(APP, "kubernetes")
    runner.cancel(handle)
    (job,) = cluster.jobs("default", "app.kubernetes.io/name=app")
    assert job["spec"]["activeDeadlineSeconds"] == 1
    assert job["metadata"]["annotations"] == {CANCELLED_ANNOTATION: "true"}


def test_cancel_leaves_a_role_alone_that_has_ended(runner: Runner, cluster: Cluster) -> None:
    handle = runner.run(TWO, "kubernetes")
    done, busy = cluster.jobs("default", "app.kubernetes.io/name=app")
    done["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}
    runner.cancel(handle)
    assert [job["spec"].get("activeDeadlineSeconds") for job in (done, busy)] == [None, 1]


def test_cancel_of_a_job_that_its_queue_holds_back_deletes_it(runner: Runner, cluster: Cluster) -> None:
    handle = runner.run(APP, "kubernetes")
    cluster.jobs("default", "app.kubernetes.io/name=app")[0]["spec"]["suspend"] = True
    runner.cancel(handle)
    assert not cluster.jobs("default", "app.kubernetes.io/name=app")


def test_deleted_job_is_reported_as_gone(runner: Runner) -> None:
    handle = runner.run(APP, "kubernetes")
    assert (status := runner.status(handle))
    assert status.state is AppState.PENDING
    runner.delete(handle)
    assert runner.status(handle) is None


def test_list_has_the_applications_of_the_namespace_once_each(runner: Runner) -> None:
    handle = runner.run(TWO, "kubernetes", {"namespace": "ns"})
    runner.run(APP, "kubernetes", {"namespace": "other"})
    found = runner.list("kubernetes", {"namespace": "ns"})
    assert [(app.app_handle, app.name, app.state) for app in found] == [(handle, "app", AppState.PENDING)]


def test_native_description_has_the_objects(runner: Runner) -> None:
    handle = runner.run(TWO, "kubernetes")
    info = runner.describe_native(handle)
    assert info
    assert [item["kind"] for item in info.request.objects] == ["Job", "Job"]


def test_log_is_the_replicas_own(runner: Runner) -> None:
    handle = runner.run(APP, "kubernetes")
    assert list(runner.log_lines(handle, "main", 1)) == ["main of pod 1\n"]
    assert list(runner.log_lines(handle, "main", 1, regex="pod 2")) == []


def test_pod_with_the_labels_of_an_application_is_not_taken_for_its_own(runner: Runner, cluster: Cluster) -> None:
    handle = runner.run(APP, "kubernetes")
    said = runner.status(handle)
    cluster.stranger = True
    assert list(runner.log_lines(handle, "main", 1)) == ["main of pod 1\n"]
    assert runner.status(handle) == said


@pytest.mark.parametrize(
    ("role", "replica", "options", "error", "words"),
    [
        ("other", 0, {}, UserError, "has no replica other/0: it has main/0-1, side/0-0"),
        ("main", 2, {}, UserError, "has no replica main/2"),
        ("main", 0, {"streams": Stream.STDERR}, ValueError, "keeps stdout and stderr as one log"),
    ],
)
def test_log_of_an_unknown_replica_or_stream_is_refused(
    runner: Runner, role: str, replica: int, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    handle = runner.run(TWO, "kubernetes")
    with pytest.raises(error, match=words):
        list(runner.log_lines(handle, role, replica, **options))


def test_handle_without_a_namespace_is_refused(runner: Runner) -> None:
    with pytest.raises(UserError, match="job is not the id of an application on Kubernetes: write NAMESPACE:NAME"):
        runner.status("kubernetes://torchx/job")


LOG_COMMAND = """
import sys
from torchx.cli.main import main
from diht_k8s.launch.torchx_scheduler import KubernetesJobScheduler
from tests.unit.launch.test_torchx_scheduler import TWO, Cluster
cluster = Cluster()
KubernetesJobScheduler._cluster = lambda self: cluster
sys.argv = ["/usr/bin/torchx"]
from torchx.runner import get_runner
handle = get_runner("torchx").run(TWO, "kubernetes")
main(["--log_level", "ERROR", "log", handle + "/main/7"])
"""


def test_torchx_log_of_a_missing_replica_ends_with_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOG_COMMAND], text=True, capture_output=True, check=False
    )
    assert done.returncode == 1
    assert re.fullmatch(r"diht: default:app-\S+ has no replica main/7: it has main/0-1, side/0-0\n", done.stderr)
    assert done.stdout == ""
