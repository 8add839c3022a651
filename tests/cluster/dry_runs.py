"""The objects of generated runs, sent to the API server without keeping them (`dryRun=All&fieldValidation=Strict`).

python -m tests.cluster.dry_runs [RUNS] [SEED] prints how often each refusal came.
"""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from diht_k8s.api.errors import UserError
from diht_k8s.cli.planned_objects import planned_objects
from tests.cluster.generated_runs import valid_run
from tests.cluster.tools import CLUSTER, Kubectl, fresh_namespace

PATHS: Final = {"Job": "apis/batch/v1/namespaces/{}/jobs", "Service": "api/v1/namespaces/{}/services", "Pod": "api/v1/namespaces/{}/pods",
                "PodGroup": "apis/scheduling.k8s.io/v1beta1/namespaces/{}/podgroups"}  # fmt: skip
OTHERS: Final = ("serviceAccountName", "priorityClassName", "runtimeClassName")
"""Fields of a pod that admission looks up in the cluster; the Job has shown that they are well-formed."""


@dataclass(frozen=True)
class DryRun:
    """The API server, without a client between."""

    client: Any
    namespace: str

    def __call__(self, item: dict[str, Any]) -> list[str]:
        """Why it refuses an object; empty where it does not."""
        path = PATHS[item["kind"]].format(self.namespace)
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if token := self.client.configuration.get_api_key_with_prefix("authorization"):
            headers["Authorization"] = token
        url = f"{self.client.configuration.host}/{path}?dryRun=All&fieldValidation=Strict"
        answer = self.client.rest_client.pool_manager.request(
            "POST", url, headers=headers, body=json.dumps(item).encode()
        )
        if answer.status == 201:
            return []
        status = json.loads(answer.data)
        causes = status.get("details", {}).get("causes", [])
        return [f"{cause.get('field', '')}: {cause['message']}" for cause in causes] or [status["message"]]


def sent(run: Any, namespace: str) -> Iterator[dict[str, Any]]:
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


def refusals(dry_run: DryRun, count: int, first: int = 0) -> tuple[Counter[str], list[str], Counter[str]]:
    """How often each kind of refusal came, an example of each, and what was counted."""
    found, examples, counted = Counter[str](), dict[str, str](), Counter[str]()
    for seed in itertools.count(first):
        if counted["accepted"] == count:
            break
        counted["generated"] += 1
        run, text = valid_run(seed)
        if run is None:
            continue
        counted["accepted"] += 1
        of_run = dict[str, str]()
        try:
            for item in sent(run, dry_run.namespace):
                counted[item["kind"]] += 1
                of_run |= {kind_of(why): why for why in dry_run(item)}
        except UserError as error:
            counted["not rendered"] += 1
            of_run[f"not rendered: {kind_of(str(error))}"] = str(error)
        counted["refused"] += bool(of_run)
        found.update(of_run.keys())
        for kind, why in of_run.items():
            examples.setdefault(kind, f"seed {seed}: {why[:300]}\n    {text[:0]}")
    return found, [f"{number} x {kind}\n    {examples[kind]}" for kind, number in found.most_common()], counted


@contextmanager
def opened(kubectl: Kubectl) -> Iterator[DryRun]:
    """In a fresh namespace whose Pod Security takes every pod."""
    from kubernetes import config

    with fresh_namespace(kubectl, "dry") as namespace:
        kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=privileged", "--overwrite")
        yield DryRun(config.new_client_from_config(str(kubectl.kubeconfig)), namespace)


if __name__ == "__main__":
    count, first = (*map(int, sys.argv[1:]), *(200, 0)[len(sys.argv) - 1 :])
    with opened(Kubectl(str(CLUSTER / "bin/kubectl"), CLUSTER / "kubeconfig")) as dry_run:
        _, lines, counted = refusals(dry_run, count, first)
    print(*lines, dict(counted), sep="\n")
