"""Makes a suspended run, waits until the operator has reported on it, deletes it. Exit status 1 when it has not after 60 s."""

import os
import sys
import time

from kubernetes import client, config

config.load_incluster_config()
runs = client.CustomObjectsApi()
at = ("diht.dev", "v1alpha1", os.environ["NAMESPACE"], "dihtruns")
name = os.environ["RUN"]
document = {
    "apiVersion": "diht.dev/v1alpha1",
    "kind": "DihtRun",
    "metadata": {"name": name},
    "spec": {
        "suspend": True,
        "data": {
            "sources": [{"name": "none", "shards": ["/nowhere/0.tar"]}],
            "output": f"/nowhere/{name}-{time.time_ns()}",
        },
        "filter": {},
    },
}
runs.create_namespaced_custom_object(*at, document)
conditions = {}
try:
    for _ in range(120):
        status = runs.get_namespaced_custom_object(*at, name).get("status", {})
        conditions = {each["type"]: each["reason"] for each in status.get("conditions", [])}
        if conditions.get("Accepted") == "Valid" and conditions.get("Progressing") == "Suspended":
            sys.exit(print("the operator has taken the run on, and reports"))
        time.sleep(0.5)
    sys.exit(f"the operator does not report: conditions {conditions}; see its log")
finally:
    runs.delete_namespaced_custom_object(*at, name)
