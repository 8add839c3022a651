"""Generated runs and objects, sent to the API server without keeping them (`dryRun=All&fieldValidation=Strict`).

python -m tests.cluster.dry_runs [RUNS] [SEED] prints how often each refusal came, and how many runs and objects were
sent.
"""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError

from diht_k8s.api.errors import UserError
from diht_k8s.api.pods import Pods
from diht_k8s.api.run import DihtRun
from diht_k8s.cli.planned_objects import planned_objects
from tests.cluster.generated_runs import drawn_object, valid_run
from tests.cluster.tools import CLUSTER, Kubectl, fresh_namespace

PATHS: Final = {
    "Job": "apis/batch/v1",
    "PodGroup": "apis/scheduling.k8s.io/v1beta1",
    "Service": "api/v1",
    "Pod": "api/v1",
}
OTHERS: Final = ("serviceAccountName", "priorityClassName", "runtimeClassName")
"""Fields of a pod that admission looks up in the cluster; the Job has shown that they are well-formed."""


@dataclass(frozen=True)
class DryRun:
    """The API server, without a client between."""

    client: Any
    namespace: str

    def __call__(self, item: dict[str, Any]) -> list[str]:
        """Why it refuses an object; empty where it does not."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if token := self.client.configuration.get_api_key_with_prefix("authorization"):
            headers["Authorization"] = token
        path = f"{PATHS[item['kind']]}/namespaces/{self.namespace}/{item['kind'].lower()}s"
        url = f"{self.client.configuration.host}/{path}?dryRun=All&fieldValidation=Strict"
        pool = self.client.rest_client.pool_manager
        answer = pool.request("POST", url, headers=headers, body=json.dumps(item).encode())
        if answer.status == 201:
            return []
        status = json.loads(answer.data)
        causes = status.get("details", {}).get("causes", [])
        return [f"{cause.get('field', '')}: {cause['message']}" for cause in causes] or [status["message"]]


@contextmanager
def opened(kubectl: Kubectl) -> Iterator[DryRun]:
    """In a fresh namespace whose Pod Security takes every pod."""
    from kubernetes import config

    with fresh_namespace(kubectl, "dry") as namespace:
        kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=privileged", "--overwrite")
        yield DryRun(config.new_client_from_config(str(kubectl.kubeconfig)), namespace)


@dataclass
class Refusals:
    """What the API server refused of runs that `validate` takes."""

    counted: Counter[str] = field(default_factory=Counter[str])
    """documents `generated`, `valid` and `refused`; objects by kind."""
    kinds: Counter[str] = field(default_factory=Counter[str])
    """runs by kind of refusal."""
    examples: dict[str, str] = field(default_factory=dict[str, str])

    def add(self, seed: int, run: DihtRun, dry_run: DryRun) -> None:
        """Send all objects of a run."""
        found = dict[str, str]()
        try:
            for item in sent(run, dry_run.namespace):
                self.counted[item["kind"]] += 1
                found |= {kind_of(why): why for why in dry_run(item)}
        except UserError as error:
            found[f"not rendered: {kind_of(str(error))}"] = str(error)
        self.counted["refused"] += bool(found)
        self.kinds.update(found.keys())
        for kind, why in found.items():
            self.examples.setdefault(kind, f"seed {seed}: {why[:300]}")

    def __str__(self) -> str:
        """Kinds of refusals, the most frequent one first."""
        return "\n".join(f"{count} x {kind}\n    {self.examples[kind]}" for kind, count in self.kinds.most_common())


def refusals(dry_run: DryRun, count: int, first: int = 0) -> Refusals:
    """What the API server refuses of a number of valid runs, drawn from a seed on."""
    found = Refusals()
    for seed in itertools.count(first):
        if found.counted["valid"] == count:
            return found
        found.counted["generated"] += 1
        if (run := valid_run(seed)) is not None:
            found.counted["valid"] += 1
            found.add(seed, run, dry_run)
    raise AssertionError


def sent(run: DihtRun, namespace: str) -> Iterator[dict[str, Any]]:
    """The objects of every stage, and a Pod of each template."""
    for item in planned_objects(run, namespace):
        yield item
        if item["kind"] == "Job":
            template = item["spec"]["template"]
            spec = {key: value for key, value in template["spec"].items() if key not in OTHERS}
            metadata = {**template["metadata"], "name": f"{item['metadata']['name']}-0", "namespace": namespace}
            yield {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def kind_of(refusal: str) -> str:
    """A refusal without what differs from document to document."""
    return re.sub(r'"(?:[^"\\]|\\.)*"', '"…"', re.sub(r"\[\d+\]", "[]", refusal)).removeprefix("spec.template.")[:220]


def refused_by_us_alone(dry_run: DryRun, seeds: range) -> Iterator[str]:
    """The fields, with why, for which `validate` refuses an object of Kubernetes that its API server takes."""
    for seed in seeds:
        name, value = drawn_object(seed)
        try:
            Pods.model_validate({name: value})
        except ValidationError as error:
            if not dry_run(_pod_with(name, value)):
                for each in error.errors(include_url=False):
                    field = ".".join(str(part) for part in each["loc"] if isinstance(part, str))
                    yield f"{field}: {each['msg']} ({each['input']!r:.80})"


def _pod_with(name: str, value: Any) -> dict[str, Any]:
    """A plain pod with one field of `pods`."""
    container: dict[str, Any] = {"name": "c", "image": "i:1"}
    spec: dict[str, Any] = {"containers": [container]}
    if name == "podSecurityContext":
        spec["securityContext"] = value
    else:
        (spec if name in ("tolerations", "affinity", "volumes") else container)[name] = value
    if name == "volumeMounts":
        spec["volumes"] = [{"name": volume} for volume in {str(mount.get("name")) for mount in value}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}


if __name__ == "__main__":
    count, first = (*map(int, sys.argv[1:]), *(200, 0)[len(sys.argv) - 1 :])
    with opened(Kubectl(str(CLUSTER / "bin/kubectl"), CLUSTER / "kubeconfig")) as dry_run:
        found = refusals(dry_run, count, first)
    print(found, dict(found.counted), sep="\n")
