"""`helm test`: creates a suspended run and waits until the operator has reported on it; with an image, lets it filter
four images to the end.

Takes its settings from the environment. On failure it prints one line and ends with 1. The run is always deleted.
"""

import json
import os
import sys
import time

from kubernetes import client, config

config.load_incluster_config()
runs = client.CustomObjectsApi()
at = ("diht.dev", "v1alpha1", os.environ["NAMESPACE"], "dihtruns")
name, deadline = os.environ["RUN"], time.monotonic() + float(os.environ["TIMEOUT_SECONDS"])
pods = {key: value for key, value in json.loads(os.environ["PODS"]).items() if value}
document = {
    "apiVersion": "diht.dev/v1alpha1",
    "kind": "DihtRun",
    "metadata": {"name": name},
    "spec": {
        "suspend": True,
        "data": {
            "sources": [{"name": "pictures", "shards": ["/pictures/pictures.tar.gz"]}],
            "output": f"/output/{time.time_ns()}",
        },
        "filter": {},
        "pods": {
            **pods,
            "volumes": [
                *pods.get("volumes", []),
                {"name": "pictures", "configMap": {"name": os.environ["PICTURES"]}},
                {"name": "output", "emptyDir": {}},
            ],
            "volumeMounts": [
                *pods.get("volumeMounts", []),
                {"name": "pictures", "mountPath": "/pictures", "readOnly": True},
                {"name": "output", "mountPath": "/output"},
            ],
        },
    },
}


def wait_for(kind: str, reason: str) -> None:
    """Wait until a condition has the reason; fail with the run's own words if it never gets there."""
    said = "no status at all: is the operator ready, and does it serve this namespace?"
    while time.monotonic() < deadline:
        status = runs.get_namespaced_custom_object(*at, name).get("status", {})
        conditions = {each["type"]: each for each in status.get("conditions", [])}
        if conditions.get(kind, {}).get("reason") == reason:
            return
        if conditions:
            said = "; ".join(
                f"{each['type']}={each['status']} {each['reason']} {each.get('message', '')}"
                for each in conditions.values()
            )
        if conditions.get("Failed", {}).get("status") == "True":
            break
        time.sleep(0.5)
    sys.exit(f"{kind} did not become {reason}: {said}")


runs.create_namespaced_custom_object(*at, document)
try:
    wait_for("Progressing", "Suspended")
    print("the operator takes runs on and reports", flush=True)
    if "image" in pods:
        runs.patch_namespaced_custom_object(*at, name, {"spec": {"suspend": False}})
        wait_for("Complete", "Complete")
        print("a run has filtered four images to its end")
finally:
    runs.delete_namespaced_custom_object(*at, name)
