"""Runs for the benchmark of the controller, and their pods' log lines."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from kubernetes import client, config

from benchmarks._plane import LOADER, Plane
from diht_k8s.api.reports import Progress
from diht_k8s.api.run import API_VERSION, Stage
from diht_k8s.api.schema.crd import GROUP, KIND, PLURAL, VERSION

NAMESPACE: Final = "default"
STREAMS: Final = 8
"""Requests of the loader at a time."""
HISTORY: Final = "history"
"""Namespace of the runs that had ended before."""
BUCKET: Final = "s3://corpus"
ENTRIES: Final = 6
"""Stages of a whole run as its status counts them: filter, vocabulary, heads, predict, train, evaluate."""
_PATCH: Final = "application/merge-patch+json"
TOTAL: Final = 1_000_000

Json = dict[str, Any]


def document(name: str, pods: int, *, ends: bool = False, gang: bool = False) -> Json:
    """A run with all four stages, or one that begins with training.

    Args:
        name: of the run.
        pods: size of each stage.
        ends: whether its pods end by themselves; else they run on.
        gang: whether it begins with training.
    """
    spec: Json = {
        "data": {
            "sources": [{"name": "laion", "shards": [BUCKET + "/raw/{00000..12799}.tar"]}],
            "output": f"{BUCKET}/runs/{name}",
        },
        "storage": [{"prefix": BUCKET, "endpointURL": "https://s3.example.org", "secretRef": {"name": "s3"}}],
        "train": {"model": "ViT-B-32", "samples": 100_000_000, "batchSize": 64 * pods, "numNodes": pods},
        "evaluate": {"benchmarks": [{"name": "r", "type": "Retrieval", "shards": [f"{BUCKET}/heldout/0.tar"]}]},
        "pods": {"image": "example.org/recipe:1", "nodeSelector": {"ends": "soon"} if ends else {}},
    }
    if gang:
        spec["train"]["distillation"] = {"mode": "Disabled"}
    else:
        spec |= {"filter": {"workers": pods}, "label": {"workers": pods, "vocabulary": {"minCount": 3}}}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": spec}


def names(word: str, count: int) -> list[str]:
    """WORD-00000 and so on."""
    return [f"{word}-{number:05d}" for number in range(count)]


class Loader:
    """The user who creates and edits runs."""

    def __init__(self, plane: Plane) -> None:
        settings = client.Configuration()
        config.load_kube_config(str(plane.kubeconfig(LOADER)), client_configuration=settings)
        settings.connection_pool_maxsize = STREAMS
        self._api = client.CustomObjectsApi(client.ApiClient(settings))

    def create(self, documents: Iterable[Json]) -> None:
        """Create runs, as fast as the API server takes them."""
        with ThreadPoolExecutor(STREAMS) as threads:
            list(threads.map(self._create, documents))

    def _create(self, body: Json, namespace: str = NAMESPACE) -> None:
        self._api.create_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL, body)

    def create_finished(self, documents: Iterable[Json], status: Json) -> None:
        """Create runs in HISTORY that have ended; no operator may run meanwhile, or it would start them."""

        def create(body: Json) -> None:
            self._create(body, HISTORY)
            self._api.patch_namespaced_custom_object_status(
                GROUP, VERSION, HISTORY, PLURAL, body["metadata"]["name"], {"status": status}, _content_type=_PATCH
            )

        with ThreadPoolExecutor(STREAMS) as threads:
            list(threads.map(create, documents))

    def delete(self, name: str) -> None:
        """Delete a run."""
        self._api.delete_namespaced_custom_object(GROUP, VERSION, NAMESPACE, PLURAL, name)

    def edit(self, runs: Sequence[str], spec: Json, *, each_s: float) -> None:
        """Patch the spec of runs, one after the other at a steady pace."""
        for number, name in enumerate(runs):
            began = time.monotonic()
            self._api.patch_namespaced_custom_object(
                GROUP, VERSION, NAMESPACE, PLURAL, name, {"spec": spec}, _content_type=_PATCH
            )
            if number + 1 < len(runs):
                time.sleep(max(0.0, began + each_s - time.monotonic()))

    def statuses(self) -> dict[str, Json]:
        """The status of each run, by its name."""
        answer: Any = self._api.list_namespaced_custom_object(GROUP, VERSION, NAMESPACE, PLURAL, _preload_content=False)
        return {item["metadata"]["name"]: item.get("status") or {} for item in json.loads(answer.data)["items"]}


def all_pods_ready(status: Json) -> bool:
    """Whether a status says that all pods of the present attempt are ready."""
    pods = status.get("pods") or {}
    return bool(pods.get("desired")) and pods.get("ready") == pods.get("desired")


def is_complete(status: Json) -> bool:
    """Whether a status says that the run is complete."""
    return any(each["type"] == "Complete" and each["status"] == "True" for each in status.get("conditions") or ())


def say_progress(log_file: Callable[[str], Path], done: int) -> None:
    """Have all fake pods say how far they are, as kubelets keep it."""
    for stage in Stage:
        line = Progress(
            stage=stage, step="epoch 1", done=done, total=TOTAL, per_second=1e3, metrics={"loss": 1 / (1 + done)}
        )
        path = log_file(stage.value)
        new = path.with_suffix(".new")
        new.write_text(f"2026-01-01T00:00:00.000000000Z stdout F {line.line()}\n")
        new.replace(path)
