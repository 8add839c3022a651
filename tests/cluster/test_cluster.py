"""The cluster under the tests is a real one: nodes, DNS, admission, audit log, S3, the recipe's environment, lost
nodes.
"""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.cluster.tools import KubectlError, wait_until

pytestmark = pytest.mark.cluster

PEERS = """
import os, socket, sys, time
index, name = int(os.environ["JOB_COMPLETION_INDEX"]), os.environ["POD_GROUP"]
def until(action, seconds=60):
    deadline = time.monotonic() + seconds
    while True:
        try:
            return action()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
"""
MEET = (
    PEERS
    + """
server = socket.create_server(("", 7000))
peer = until(lambda: socket.create_connection((f"{name}-{1 - index}.{name}", 7000), timeout=5))
peer.sendall(f"hello from {index}".encode())
peer.close()
connection, _ = server.accept()
print(connection.recv(100).decode())
"""
)
PUT_GET = """
import os, boto3, botocore.exceptions
s3 = boto3.client("s3", endpoint_url=os.environ["ENDPOINT"], region_name="us-east-1")
bucket, key = os.environ["BUCKET"], os.environ["KEY"]
s3.put_object(Bucket=bucket, Key=key, Body=b"first", IfNoneMatch="*")
try:
    s3.put_object(Bucket=bucket, Key=key, Body=b"second", IfNoneMatch="*")
except botocore.exceptions.ClientError as error:
    print(error.response["ResponseMetadata"]["HTTPStatusCode"])
print(s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode())
"""
ALL_REDUCE = (
    PEERS
    + """
until(lambda: socket.getaddrinfo(f"{name}-0.{name}", 29500))
import torch, torch.distributed as dist
dist.init_process_group("gloo", init_method=f"tcp://{name}-0.{name}:29500", rank=index, world_size=2)
value = torch.tensor([float(index + 1)])
dist.all_reduce(value)
print(value.item())
dist.destroy_process_group()
"""
)


def node_ready(kubectl: Any, name: str) -> str:
    """The status of the node's Ready condition: True, False or Unknown."""
    return kubectl("get", "node", name, "-o", 'jsonpath={.status.conditions[?(@.type=="Ready")].status}')


def test_nodes_when_started_are_two_and_ready(kubectl):
    nodes = kubectl.json("get", "nodes", "--selector", "type!=kwok")["items"]
    assert len(nodes) >= 2
    assert {node_ready(kubectl, node["metadata"]["name"]) for node in nodes} == {"True"}


def test_two_pods_when_on_two_nodes_find_each_other_by_name(kubectl, namespace, run_pods):
    assert run_pods(MEET, count=2) == ["hello from 1\n", "hello from 0\n"]
    pods = kubectl.json("get", "pods", "--namespace", namespace)["items"]
    assert len({pod["spec"]["nodeName"] for pod in pods}) == 2


@pytest.mark.parametrize(
    ("pod", "refusal"),
    [
        ({"containers": [{"name": "c", "image": "i", "securityContext": {"privileged": True}}]}, "privileged"),
        ({"containers": [{"name": "c", "image": "i"}]}, "runAsNonRoot"),
        (
            {"containers": [{"name": "c", "image": "i"}], "volumes": [{"name": "v", "hostPath": {"path": "/"}}]},
            "hostPath",
        ),
        ({"containers": [{"name": "c", "image": "i"}], "hostNetwork": True}, "hostNetwork"),
    ],
    ids=["privileged", "root", "host-path", "host-network"],
)
def test_pod_when_against_the_restricted_standard_is_refused_with_the_reason(kubectl, namespace, pod, refusal):
    document = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bad"}, "spec": pod}
    with pytest.raises(KubectlError, match=f'violates PodSecurity "restricted.*{refusal}'):
        kubectl.apply(json.dumps(document), "--namespace", namespace)


def test_audit_when_a_user_writes_names_user_verb_and_object(kubectl, namespace, audit):
    since, user = datetime.now(UTC), f"system:serviceaccount:{namespace}:default"
    with pytest.raises(KubectlError, match="forbidden"):
        kubectl("create", "configmap", "mine", "--namespace", namespace, "--as", user)
    kubectl("create", "configmap", "mine", "--namespace", namespace)
    [refused] = audit(user=user, since=since)
    assert (refused["verb"], refused["objectRef"]["resource"], refused["responseStatus"]["code"]) == (
        "create",
        "configmaps",
        403,
    )

    def made(since: datetime) -> list[dict[str, Any]]:
        return [each for each in audit(user="admin", since=since) if each["objectRef"].get("namespace") == namespace]

    assert [(event["verb"], event["objectRef"]["name"], event["responseStatus"]["code"]) for event in made(since)] == [
        ("create", "mine", 201)
    ]
    assert made(datetime.now(UTC)) == []


def test_s3_when_used_from_a_pod_stores_once_and_is_read_back_outside(s3_in_cluster, namespace, run_pods):
    where = {"ENDPOINT": s3_in_cluster.endpoint_url, "BUCKET": s3_in_cluster.bucket, "KEY": f"{namespace}/object"}
    [log] = run_pods(PUT_GET, env=where, secret=s3_in_cluster.add_secret(namespace))
    assert log == "412\nfirst\n"
    stored = s3_in_cluster.client().get_object(Bucket=s3_in_cluster.bucket, Key=f"{namespace}/object")
    assert stored["Body"].read() == b"first"


def test_torch_when_in_two_pods_reduces_over_gloo(run_pods):
    assert run_pods(ALL_REDUCE, count=2, timeout_s=240) == ["3.0\n", "3.0\n"]


def test_api_server_when_killed_comes_back_with_its_objects(kubectl, namespace, parts):
    parts.kill("kube-apiserver")
    with pytest.raises(KubectlError, match="refused"):
        kubectl("get", "namespace", namespace)
    parts.restore()
    assert namespace in kubectl("get", "namespace", namespace, "-o", "name")


def test_node_when_lost_is_found_out_and_its_containers_are_gone(kubectl, namespace, parts, start_pods):
    start_pods(f"import time; time.sleep(9999)  # {namespace}", node="node-1")
    wait_until(lambda: living(namespace), "the pod's process")
    parts.lose_node(1)
    assert not living(namespace)
    wait_until(lambda: node_ready(kubectl, "node-1") == "Unknown", "node-1 Unknown")


def test_containers_when_kubelet_and_runtime_die_live_on_as_zombies_and_are_taken_back(
    kubectl, namespace, parts, start_pods
):
    start_pods(f"import time; time.sleep(9999)  # {namespace}", node="node-1")
    [before] = wait_until(lambda: living(namespace), "the pod's process")
    parts.lose_node(1, zombies=True)
    assert living(namespace) == [before]
    parts.restore()
    assert living(namespace) == [before]
    kubectl("delete", "jobs", "--all", "--namespace", namespace)
    wait_until(lambda: not living(namespace), "the end of the pod's process")


def living(namespace: str) -> list[str]:
    """Process ids of the sleepers of the test's namespace: pods run on this machine."""
    return subprocess.run(
        ["pgrep", "-f", f"^python3 -c .*# {namespace}$"], capture_output=True, text=True
    ).stdout.split()
