"""A v1alpha2 beside v1alpha1: definitions that serve both, the commands of the docs that migrate, what etcd holds."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import re
import subprocess
import urllib.request
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from diht_k8s.api.run import KIND
from diht_k8s.api.schema.crd import GROUP, PLURAL, definition
from tests.cluster.tools import PROJECT, Kubectl, KubectlError, wait_until

OLD, NEW = "v1alpha1", "v1alpha2"
FIELD: Final = "tomorrow"
"""A field of spec.filter that comes with v1alpha2."""
ETCD: Final = "http://127.0.0.1:2379/v3/kv/range"


@dataclass(frozen=True)
class Version:
    """A version as a definition may have it, with the new field or without it."""

    name: str
    knows: bool = True
    stored: bool = False
    served: bool = True

    def of(self, template: dict[str, Any]) -> dict[str, Any]:
        found = {**copy.deepcopy(template), "name": self.name, "served": self.served, "storage": self.stored}
        root = found["schema"]["openAPIV3Schema"]
        root["description"] = f"DihtRun of {self.name}."
        if self.knows:
            root["properties"]["spec"]["properties"]["filter"]["properties"][FIELD] = {"type": "boolean"}
        if self.name == OLD:
            found |= {"deprecated": True, "deprecationWarning": f"use {NEW}"}
        elif (
            "selectableFields" in found
        ):  # the same list beside another schema is refused: kubernetes/kubernetes#140689
            found["selectableFields"].reverse()
        return found


@dataclass(frozen=True)
class Definition:
    """The definition of runs in the cluster."""

    kubectl: Kubectl
    name: ClassVar = f"{PLURAL}.{GROUP}"

    def apply(self, *versions: Version) -> None:
        """Ends when the API server serves and stores these versions."""
        document = definition()
        template = document["spec"]["versions"][0]
        document["spec"]["versions"] = [version.of(template) for version in versions]
        self.kubectl.apply(json.dumps(document), "--server-side", "--force-conflicts")
        stored = next(version.name for version in versions if version.stored)
        wanted = {version.name: self._hash(stored) for version in versions if version.served}
        wait_until(lambda: self._answering() == wanted, f"{[*wanted]} are served and {stored} is stored")

    def _hash(self, version: str) -> str:
        """How discovery names the version that is stored."""
        return base64.b64encode(hashlib.sha256(f"{GROUP}/{version}/{KIND}".encode()).digest()[:8]).decode()

    def _answering(self) -> dict[str, str]:
        """The versions that the API server answers for, each with the hash of the stored one."""
        found = dict[str, str]()
        for version in (OLD, NEW):
            try:
                listed = self.kubectl.read(f"/apis/{GROUP}/{version}")["resources"]
                found[version] = next(each["storageVersionHash"] for each in listed if each["name"] == PLURAL)
                self.kubectl.read(f"/apis/{GROUP}/{version}/{PLURAL}?limit=1")
            except KubectlError as error:
                if "invalid group/version" not in str(error):  # served, whatever etcd holds
                    found.pop(version, None)
        return found

    def stored_versions(self) -> list[str]:
        """What the definition says that etcd may hold."""
        return self.kubectl.json("get", "crd", self.name)["status"]["storedVersions"]

    def in_etcd(self, namespace: str) -> dict[str, str]:
        """The version in which each run of a namespace lies there."""
        prefix = f"/registry/{GROUP}/{PLURAL}/{namespace}/"
        asked = {"key": prefix, "range_end": prefix[:-1] + chr(ord("/") + 1)}
        body = json.dumps({name: base64.b64encode(key.encode()).decode() for name, key in asked.items()}).encode()
        with urllib.request.urlopen(urllib.request.Request(ETCD, body), timeout=10) as answer:
            items = [json.loads(base64.b64decode(each["value"])) for each in json.load(answer).get("kvs", [])]
        return {item["metadata"]["name"]: item["apiVersion"].rpartition("/")[2] for item in items}

    def migrate(self, version: str) -> None:
        """What the docs say: rewrite every run, then say that only this version is stored."""
        self.rewrite()
        self.declare(version)

    def rewrite(self) -> None:
        wait_until(self._rewritten, "every run is rewritten")

    def _rewritten(self) -> bool:
        try:
            _shell(self.kubectl, commands()[0])
        except (
            KubectlError
        ) as error:  # the operator wrote a status meanwhile, or a test's namespace went: again, as the docs say
            if "(Conflict)" in str(error) or "(NotFound)" in str(error):
                return False
            raise
        return True

    def declare(self, *versions: str) -> None:
        command = commands()[1]
        _shell(self.kubectl, command.replace('["v1beta1"]', json.dumps(versions)))


def commands() -> list[str]:
    """Of the docs: the one that rewrites, and the one that declares."""
    section = (
        (PROJECT / "docs/operations.md").read_text().partition("## Versions of the API\n")[2].partition("\n## ")[0]
    )
    found = re.search(r"```\n(.*?)```", section, re.DOTALL)
    assert found, "docs/operations.md has the commands"
    return found[1].strip().splitlines()


def _shell(kubectl: Kubectl, command: str) -> None:
    words = f"{kubectl.program} --kubeconfig {kubectl.kubeconfig}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command.replace("kubectl", words)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    if done.returncode != 0:
        raise KubectlError(f"{command}: {done.stderr.strip()}")
