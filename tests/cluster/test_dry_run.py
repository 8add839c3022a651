"""The objects of samples and of good documents, which the API server checks and does not keep."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pytest

from diht_k8s.api.documents import check
from diht_k8s.api.run import DihtRun
from diht_k8s.cli.cluster import planned_objects
from tests.cluster.tools import PROJECT, Kubectl, KubectlError, fresh_namespace
from tests.contract.documents.fields import CASES as FIELDS
from tests.contract.documents.rules import CASES as RULES

pytestmark = pytest.mark.cluster
PATHS: Final = {
    "Job": "apis/batch/v1",
    "PodGroup": "apis/scheduling.k8s.io/v1beta1",
    "Service": "api/v1",
    "Pod": "api/v1",
}
OTHERS: Final = ("serviceAccountName", "priorityClassName", "runtimeClassName")
"""Fields of a pod that admission looks up in the cluster; the Job has shown that they are well-formed."""


def sent(run: DihtRun, namespace: str) -> Iterator[dict[str, Any]]:
    """The objects of every stage, and a Pod of each template."""
    for item in planned_objects(run, namespace):
        yield item
        if item["kind"] == "Job":
            template = item["spec"]["template"]
            spec = {key: value for key, value in template["spec"].items() if key not in OTHERS}
            metadata = {**template["metadata"], "name": f"{item['metadata']['name']}-0", "namespace": namespace}
            yield {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def refusal(kubectl: Kubectl, item: dict[str, Any]) -> str:
    """Why the API server refuses an object; empty where it does not."""
    path = f"/{PATHS[item['kind']]}/namespaces/{item['metadata']['namespace']}/{item['kind'].lower()}s"
    try:
        kubectl.send("POST", path, item, dryRun="All")
    except KubectlError as error:
        return str(error)
    return ""


def test_api_server_takes_every_object_of_the_samples_and_of_good_documents(kubectl: Kubectl) -> None:
    """Also one that is older than the fields of pods that `validate` knows."""
    documents = [case.text for case in (*FIELDS, *RULES) if case.good]
    documents += [path.read_text() for path in sorted((PROJECT / "manifests/samples").glob("*.yaml"))]
    jobs, refused = 0, list[str]()
    with fresh_namespace(kubectl, "dry") as namespace:
        kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=privileged", "--overwrite")
        for text in documents:
            run, problems = check(text, overrides=["spec.pods.image=recipe:1"])
            assert run is not None, problems
            for item in sent(run, namespace):
                jobs += item["kind"] == "Job"
                refused += [why for why in [refusal(kubectl, item)] if why]
    assert jobs > 100
    assert refused == []
