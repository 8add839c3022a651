"""A release in a registry, installed from there by digest as docs/install.md says; nodes reach the registry under a mirror's name."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.buildah import buildah, settings
from tests.cluster.charts import Helm, build_operator_image, recipe, runs_place
from tests.cluster.operators import Runs
from tests.cluster.tools import CLUSTER, PROJECT, Kubectl, cannot, wait_until
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
    subprocess.run([builder, "rmi", f"{made.registry}/diht-operator"], capture_output=True)


@pytest.fixture
def runs(kubectl: Kubectl, recipe_image: str) -> Iterator[Runs]:
    with runs_place(kubectl, recipe_image) as place:
        yield place


def documented_install() -> str:
    """The line of docs/install.md."""
    line = re.search(r'^helm install diht-operator "oci://.*$', (PROJECT / "docs/install.md").read_text(), re.MULTILINE)
    assert line
    return line[0]


def test_verified_release_is_installed_from_its_registry_by_digest_and_helm_test_passes(
    release: Release, runs: Runs, kubeconfig: Path
) -> None:
    """`publish` has verified it by the documented commands already."""
    path = release.registry.partition("/")[2]
    ours = ["--set", f"image.repository={MIRROR}/{path}/diht-operator", "--set", "rbac.scope=namespaced",
            "--take-ownership", "--wait", "--timeout=120s", *recipe(runs)]  # fmt: skip
    line = documented_install().replace("diht-system", runs.namespace)
    environment = {
        **os.environ, "REGISTRY": release.registry, "KUBECONFIG": str(kubeconfig),
        "PATH": f"{program('helm').parent}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    done = subprocess.run(["bash", "-c", f'{line} "$@"', "bash", *ours], cwd=release.dist, env=environment, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    helm = Helm(str(program("helm")), kubeconfig, runs.namespace)
    try:
        pod = runs.kubectl.json("get", "pods", "--namespace", runs.namespace)["items"][0]
        (container,) = pod["status"]["containerStatuses"]
        assert container["imageID"] == f"{MIRROR}/{path}/diht-operator@{release.digests['diht-operator']}"
        pulled = wait_until(lambda: events(runs, "Pulled"), "the event of the pull", 20)
        assert any(f'Successfully pulled image "{container["imageID"]}"' in each for each in pulled), pulled
        tested = helm.test("diht-operator")
        assert "the operator takes runs on and reports" in tested
        assert "a run has filtered four images to its end" in tested
    finally:
        helm("uninstall", "diht-operator", "--wait")


def events(runs: Runs, reason: str) -> list[str]:
    found = runs.kubectl("get", "events", "--namespace", runs.namespace, f"--field-selector=reason={reason}", "-o", "json")  # fmt: skip
    return [each["message"] for each in json.loads(found)["items"]]
