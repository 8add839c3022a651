"""What the tests of the chart on the cluster are made of: helm as a function, the operator's image, a namespace with
runs.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.operators import Runs, output_folder, project
from tests.cluster.tools import CLUSTER, PATIENCE, PROJECT, Kubectl, fresh_namespace, script

CHART = PROJECT / "helm/diht-operator"
IMAGE = "local/diht-operator:test"
WAIT = ("--wait", f"--timeout={60 * PATIENCE}s")


class HelmError(Exception):
    """helm's own message."""


@dataclass(frozen=True)
class Helm:
    """helm as a function of one namespace: `helm("test", NAME)` returns what it prints, a failure is a HelmError."""

    program: str
    kubeconfig: Path
    namespace: str
    user: str | None = None
    """who calls it; None is the administrator."""

    def __call__(self, *arguments: str) -> str:
        return self._run(*arguments).stdout

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [self.program, "--kubeconfig", str(self.kubeconfig), "--namespace", self.namespace]
        command += ["--kube-as-user", self.user] if self.user else []
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120 * PATIENCE)
        if done.returncode != 0:
            raise HelmError(f"{done.stderr}{done.stdout}".strip())
        return done

    @property
    def taking_over(self) -> tuple[str, ...]:
        """Flags that take over a definition that somebody else has applied; for Helm 4, which applies on the server,
        also its fields.
        """
        forced = "--force-conflicts"
        return ("--take-ownership", *([forced] if forced in self("install", "--help") else []))

    def uninstall_all(self) -> None:
        """Every release of the namespace, however it ended; Helm 4 has no `--all`."""
        for release in json.loads(self("list", "--deployed", "--failed", "--pending", "--output=json")):
            self("uninstall", release["name"])

    def test(self, release: str) -> str:
        """What `helm test` tells a person; the log of its pod comes on the other stream."""
        done = self._run("test", release)
        return done.stdout + done.stderr

    def install(self, release: str, *settings: str, chart: Path = CHART, flags: tuple[str, ...] = ()) -> str:
        """As the README says, with the image of the tests; ends when the operator is ready, or fails after a minute."""
        return self("install", release, str(chart), *_settings(settings), *WAIT, *flags)

    def upgrade(self, release: str, *settings: str, chart: Path = CHART) -> str:
        """As the docs say."""
        return self("upgrade", release, str(chart), *_settings(settings), "--reset-then-reuse-values", *WAIT)


def recipe(runs: Runs) -> tuple[str, ...]:
    """Flags by which `helm test` runs the real filter of this checkout."""
    repository, _, tag = runs.image.rpartition(":")
    pods = {"volumes": runs.project["volumes"], "volumeMounts": runs.project["mounts"]}
    return (
        "--set-string",
        f"tests.image.repository={repository},tests.image.tag={tag}",
        "--set-json",
        f"tests.pods={json.dumps(pods)}",
    )


def _settings(settings: tuple[str, ...]) -> list[str]:
    repository, tag = IMAGE.split(":")
    return [
        word for each in (f"image.repository={repository}", f"image.tag={tag}", *settings) for word in ("--set", each)
    ]


@functools.cache
def build_operator_image() -> None:
    """Once a check, from its Containerfile, into the nodes; the layers with the packages are kept from the time
    before.
    """
    with (CLUSTER / "operator-image").open("a+") as made:  # by which check
        fcntl.flock(made, fcntl.LOCK_EX)
        made.seek(0)
        check = os.environ.get("TEST_CLUSTER_CHECK", str(os.getpid()))
        if made.read() != check:
            script("build", IMAGE, str(PROJECT), str(PROJECT / "images/operator.Containerfile"))
            made.truncate(0)
            made.write(check)


@contextmanager
def runs_place(kubectl: Kubectl, image: str) -> Iterator[Runs]:
    """A fresh namespace in which runs of stub programs can be made."""
    with ExitStack() as stack:
        namespace = stack.enter_context(fresh_namespace(kubectl, "helm"))
        output = stack.enter_context(output_folder(kubectl, namespace))
        volume = stack.enter_context(project(kubectl, namespace))
        yield Runs(kubectl, namespace, image, volume, output)
