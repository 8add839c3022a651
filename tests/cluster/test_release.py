"""A release in a registry, installed from there by digest as docs/install.md says: `helm test` and the demo pass.

Nodes reach the registry under a mirror's name.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from diht_k8s import __version__
from tests.cluster.buildah import buildah, settings
from tests.cluster.charts import Helm, build_operator_image, recipe, runs_place
from tests.cluster.demo import start
from tests.cluster.operators import Runs, stages
from tests.cluster.tools import CLUSTER, PROJECT, S3, Kubectl, cannot, wait_until
from tools.release.programs import program
from tools.release.publishing import Release, rehearsal

pytestmark = [pytest.mark.cluster, pytest.mark.exclusive, pytest.mark.slow, pytest.mark.timeout(3600)]
MIRROR = "registry.example.org"
HOSTS = """server = "http://{address}"
[host."http://{address}"]
capabilities = ["pull", "resolve"]
"""
"""What containerd asks instead of the mirror, by plain HTTP."""


@pytest.fixture(scope="module")
def release(own: bool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    """Of this checkout's commit, with the operator's own image; its nodes find it."""
    if not own:
        cannot("KUBECONFIG is another cluster's: its nodes do not know a registry of this machine")
    build_operator_image()  # its layers with the packages are kept from the time before
    builder = buildah(tmp_path_factory.mktemp("bin"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings(builder, "--layers").items():
            patch.setenv(name, value)
        with rehearsal(tmp_path_factory.mktemp("release"), ["operator"]) as made:
            address, path = made.registry.split("/")
            for node in CLUSTER.glob("node-*"):
                hosts = node / f"registries/{MIRROR}/hosts.toml"
                hosts.parent.mkdir(parents=True, exist_ok=True)
                hosts.write_text(HOSTS.format(address=address))
            yield made
            image = f"{MIRROR}/{path}/diht-operator@{made.digests['diht-operator']}"
            for node in CLUSTER.glob("node-*"):
                (node / f"registries/{MIRROR}/hosts.toml").unlink()
                ctr = ["ctr", "--address", node / "containerd.sock", "--namespace", "k8s.io"]
                subprocess.run([*ctr, "images", "rm", image], capture_output=True)
    subprocess.run([builder, "rmi", f"{made.registry}/diht-operator:{__version__}"], capture_output=True)


@pytest.fixture(scope="module")
def installed(release: Release, kubectl: Kubectl, kubeconfig: Path, recipe_image: str) -> Iterator[Runs]:
    """A namespace under the operator of the release; `publish` has verified it by the documented commands already."""
    image = f"{MIRROR}/{release.registry.partition('/')[2]}/diht-operator"
    with runs_place(kubectl, recipe_image) as runs:
        ours = [
            "--set",
            f"image.repository={image}",
            "--set",
            "rbac.scope=namespaced",
            "--take-ownership",
            "--wait",
            "--timeout=120s",
            *recipe(runs),
        ]
        line = documented_install().replace("diht-system", runs.namespace)
        environment = {
            **os.environ,
            "REGISTRY": release.registry,
            "KUBECONFIG": str(kubeconfig),
            "PATH": f"{program('helm').parent}{os.pathsep}{os.environ['PATH']}",
        }
        done = subprocess.run(
            ["bash", "-c", f'{line} "$@"', "bash", *ours],
            cwd=release.dist,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        yield runs
        helm_of(runs)("uninstall", "diht-operator", "--wait")


def helm_of(runs: Runs) -> Helm:
    return Helm(str(program("helm")), runs.kubectl.kubeconfig, runs.namespace)


def operator_pod(runs: Runs) -> dict[str, Any]:
    pods = runs.kubectl.json(
        "get", "pods", "--namespace", runs.namespace, "--selector=app.kubernetes.io/name=diht-operator"
    )
    (pod,) = pods["items"]
    return pod


def documented_install() -> str:
    """The line of docs/install.md."""
    line = re.search(r'^helm install diht-operator "oci://.*$', (PROJECT / "docs/install.md").read_text(), re.MULTILINE)
    assert line
    return line[0]


def test_image_comes_from_the_registry_by_digest_and_helm_test_passes(release: Release, installed: Runs) -> None:
    (container,) = operator_pod(installed)["status"]["containerStatuses"]
    image = f"{MIRROR}/{release.registry.partition('/')[2]}/diht-operator@{release.digests['diht-operator']}"
    assert container["imageID"] == image
    pulled = wait_until(lambda: events(installed, "Pulled"), "the event of the pull", 20)
    assert any(f'Successfully pulled image "{image}"' in each for each in pulled), pulled
    tested = helm_of(installed).test("diht-operator")
    assert "the operator takes runs on and reports" in tested
    assert "a run has filtered four images to its end" in tested


def test_operator_of_the_release_is_not_root_and_cannot_write_to_its_image(installed: Runs) -> None:
    pod = operator_pod(installed)["metadata"]["name"]
    source = (
        "import os; print(os.getuid())\ntry: open('/var/tmp/x', 'w')\nexcept OSError as error: print(error.strerror)"
    )
    told = installed.kubectl("exec", pod, "--namespace", installed.namespace, "--", "python3", "-c", source)
    assert told.splitlines() == ["65532", "Read-only file system"]


def test_demo_for_clusters_completes_under_the_release(installed: Runs, s3_in_cluster: S3) -> None:
    prefix = start(installed, s3_in_cluster)
    found = stages(installed.wait_for("demo", "Complete", timeout_s=900))
    assert {stage["stage"] for stage in found.values()} == {"filter", "label", "train", "evaluate"}
    assert {stage["state"] for stage in found.values()} == {"Complete"}
    assert all(stage.get("restarts", 0) == 0 for stage in found.values())
    listed = s3_in_cluster.client().list_objects_v2(Bucket=s3_in_cluster.bucket, Prefix=f"{prefix}/run/evaluate/")
    assert [each["Key"] for each in listed["Contents"] if each["Key"].endswith("/report.json")]


def events(runs: Runs, reason: str) -> list[str]:
    found = runs.kubectl(
        "get", "events", "--namespace", runs.namespace, f"--field-selector=reason={reason}", "-o", "json"
    )
    return [each["message"] for each in json.loads(found)["items"]]
