"""`diht estimate` and `validate --gpu`: what is printed, what is refused, and what is said before a run is sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diht_k8s.cli import cluster
from diht_k8s.cli.main import main

pytestmark = pytest.mark.usefixtures("traced_once")
MODEL: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 224, "layers": 1, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 1000, "width": 32, "heads": 2, "layers": 1},
}
RESNET = {**MODEL, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16}}
"""At 32 pixels its last BatchNorm sees one place of an image."""
HUGE = {"modelConfig": {**MODEL, "vision_cfg": {**MODEL["vision_cfg"], "width": 1024}}, "batchSize": 256}
"""Its pairs fit on no T4."""
H100 = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
T4 = {"cloud.google.com/gke-accelerator": "nvidia-tesla-t4"}

MOUNTED: dict[str, Any] = {
    "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
}

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    monkeypatch.setenv("COLUMNS", "200")

    def write(*, pods: dict[str, Any] | None = None, **train: Any) -> str:
        body = {
            "modelConfig": MODEL,
            "samples": 10**6,
            "batchSize": 64,
            "precision": "fp32",
            "distillation": {"mode": "Disabled"},
            **train,
        }
        spec = {"data": {"sources": [{"name": "web", "shards": ["/data/a.tar"]}], "output": "/data/out"}, "train": body}
        run = {"apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "metadata": {"name": "small"}}
        path = tmp_path / "run.yaml"
        path.write_text(json.dumps({**run, "spec": {**spec, "pods": {"image": "i", **MOUNTED, **(pods or {})}}}))
        return str(path)

    return write


def test_estimate_when_it_fits_then_tables_and_0(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", write(processesPerNode=5), "--gpu", "h100", "--nodes", "2"]) == 0
    said = capsys.readouterr()
    assert "10 x h100, batch 64, 7 rows a rank, micro-batch 7" in said.out
    for row in ("weights", "activations", "optimiser states", "CUDA and NCCL", "GFLOP a sample", "largest micro-batch"):
        assert row in said.out
    assert "days" not in said.out
    assert "neither was measured on a GPU" in said.out
    assert said.err == ""


@pytest.mark.parametrize(
    ("train", "said"),
    [
        (
            {"features": "Stored"},
            "locked image tower: each image passes it once before the first step, which is not counted: the image "
            "tower above is what learns behind it",
        ),
        ({}, "locked image tower: its forward pass alone is counted"),
        (None, None),
    ],
    ids=["stored", "computed", "not locked"],
)
def test_estimate_of_a_locked_tower_says_what_of_it_is_counted(
    train: dict[str, Any] | None, said: str | None, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    locked = {} if train is None else {"lockImageTower": True, **train}
    assert main(["estimate", write(**locked), "--gpu", "H100", "--json"]) == 0
    found = [note for note in json.loads(capsys.readouterr().out)["notes"] if "locked" in note]
    assert found == ([] if said is None else [said])


@pytest.mark.parametrize(("batch", "largest"), [(64, "64"), (13, "13")])
def test_estimate_of_a_model_whose_batch_norm_sees_one_value_of_an_image_is_made(
    batch: int, largest: str, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["estimate", write(modelConfig=RESNET, batchSize=batch), "--gpu", "H100", "--json"]) == 0
    assert str(json.loads(capsys.readouterr().out)["largest_micro_batch"]) == largest


def test_estimate_when_asked_for_json_then_one_object_whose_parts_add_up(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["estimate", write(), "--gpu", "L40S", "--mfu", "0.3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["used"] == sum(found["memory"]["device"].values()) + sum(found["overhead"].values())
    assert (found["fits"], found["largest_micro_batch"], found["mfu"]) == (True, 64, 0.3)
    assert found["step_seconds"] == pytest.approx(64 * found["executed_flops_per_sample"] / (0.3 * 91.6e12))
    assert found["days"] == pytest.approx(10**6 / 64 * found["step_seconds"] / 86400)


@pytest.mark.parametrize(
    ("arguments", "train", "message"),
    [
        (["--gpu", "H1000"], {}, "--gpu H1000 is not known: did you mean H100? There are B200, H200, H100"),
        (["--gpu", "abacus"], {}, "--gpu abacus is not known: give one of B200"),
        (["--gpu", "H100", "--nodes", "65"], {}, "(64 pairs, 65 processes)"),
        (["--gpu", "H100", "--nodes", "0"], {}, "--nodes 0 must be at least 1"),
        (["--gpu", "H100", "--mfu", "45"], {}, "--mfu 45.0 must be above 0 and at most 1"),
        (
            ["--gpu", "H100"],
            {"modelConfig": RESNET, "microBatchSize": 1},
            "a micro-batch of 1 cannot pass through the model (Expected more than 1 value",
        ),
        (["--gpu", "T4"], {"precision": "bf16"}, "train.precision bf16 is not supported by this GPU"),
        (["--gpu", "T4"], HUGE, "GiB of a T4's 15.0: set train.microBatchSize to "),
    ],
)
def test_estimate_when_asked_for_what_cannot_be_then_one_line_and_64(
    write: Write, capsys: pytest.CaptureFixture[str], arguments: list[str], train: dict[str, Any], message: str
) -> None:
    assert main(["estimate", write(**train), *arguments]) == 64
    assert message in capsys.readouterr().err


def test_estimate_when_there_is_no_training_then_64(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = {"apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "metadata": {"name": "small"}}
    spec = {"data": {"sources": [{"name": "web", "shards": ["a.tar"]}], "output": "out"}, "filter": {}}
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps({**run, "spec": spec}))
    assert main(["estimate", str(path), "--gpu", "H100"]) == 64
    assert "the run has no train stage" in capsys.readouterr().err
    assert main(["validate", str(path), "--gpu", "H100"]) == 0


@pytest.mark.parametrize(
    ("pods", "train", "arguments", "says"),
    [
        ({}, HUGE, [], None),
        ({"nodeSelector": {"disk": "ssd"}}, HUGE, [], None),
        ({"resources": {"cpu": "512"}}, {}, ["--gpu", "T4"], None),
        ({}, HUGE, ["--gpu", "T4"], "GiB of a T4's 15.0: set train.microBatchSize to "),
        ({"nodeSelector": T4}, HUGE, [], "GiB of a T4's 15.0: set train.microBatchSize to "),
        ({"nodeSelector": H100, "resources": {"cpu": "4"}}, {}, [], "cpu 4 of a pod feeds 1 x H100 about 1,224 of "),
        (
            {"nodeSelector": H100},
            {"loaderWorkers": 2},
            [],
            "train.loaderWorkers 2 of a pod feeds 1 x H100 about 816 of ",
        ),
        ({"nodeSelector": H100}, {"batchSize": 65, "microBatchSize": 64}, [], None),
        (
            {"nodeSelector": H100},
            {"modelConfig": RESNET, "batchSize": 64, "microBatchSize": 1},
            [],
            "the training cannot be estimated: a micro-batch of 1 cannot pass through the model",
        ),
    ],
)
def test_validate_when_the_gpu_is_known_then_warns_of_what_it_lacks_and_stays_0(
    write: Write,
    capsys: pytest.CaptureFixture[str],
    pods: dict[str, Any],
    train: dict[str, Any],
    arguments: list[str],
    says: str | None,
) -> None:
    assert main(["validate", write(pods=pods, **train), *arguments]) == 0
    said = capsys.readouterr()
    assert "valid: run small" in said.out
    assert ("warning: " in said.err) is (says is not None)
    assert says is None or says in said.err


def test_validate_when_the_training_is_refused_then_not_also_as_one_that_cannot_be_estimated(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = {"modelConfig": RESNET, "batchSize": 65, "microBatchSize": 64}
    assert main(["validate", write(pods={"nodeSelector": H100}, **refused)]) == 64
    (line,) = capsys.readouterr().err.splitlines()
    assert "spec.train.microBatchSize: the model of train.modelConfig has batch statistics" in line


def test_validate_when_the_gpu_is_unknown_then_64(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", write(), "--gpu", "L40"]) == 64
    assert "did you mean L40S?" in capsys.readouterr().err


class Accepting:
    """A cluster that takes every run."""

    namespace = "here"

    def apply(self, run: Any, *, dry_run: bool) -> dict[str, Any]:
        return {"metadata": {"namespace": self.namespace, "name": run.metadata.name}, "spec": {}}


def test_submit_when_it_cannot_fit_then_says_so_before_and_submits(
    write: Write, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "run_client", lambda _: Accepting())
    assert main(["submit", write(pods={"nodeSelector": T4}, **HUGE)]) == 0
    said = capsys.readouterr()
    assert "warning: the training needs " in said.err
    assert "submitted run here/small" in said.out


def test_submit_when_the_run_names_what_is_not_there_then_says_all_of_it_and_sends_nothing(
    write: Write, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "run_client", lambda _: pytest.fail("the cluster is not asked"))
    path = write(pods={"volumeMounts": []}, modelConfig=None, model="ViT-B-33")
    assert main(["submit", path]) == 64
    fields = ["spec.train.model", "spec.data.sources[0].shards[0]", "spec.data.output"]
    lines = capsys.readouterr().err.removeprefix("diht: ").splitlines()
    assert [line.partition(": ")[0] for line in lines] == fields


@pytest.mark.parametrize(
    ("pods", "options", "code", "says"),
    [
        (
            {"volumeMounts": []},
            ["--cluster"],
            64,
            "line 1: spec.data.output: /data/out lies below no volumeMounts.mountPath",
        ),
        (
            {"volumeMounts": []},
            [],
            0,
            "warning: line 1: spec.data.output: /data/out lies below no volumeMounts.mountPath",
        ),
        ({}, ["--cluster"], 0, ""),
    ],
)
def test_validate_takes_paths_that_pods_lack_for_errors_where_it_knows_that_the_run_is_for_a_cluster(
    pods: dict[str, Any], options: list[str], code: int, says: str, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", write(pods=pods), *options]) == code
    said = capsys.readouterr().err
    assert says in said
    assert says or "spec.data.output" not in said


def test_validate_of_a_document_without_pods_takes_its_paths_for_those_of_this_machine(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write()
    run = json.loads(Path(path).read_text())
    run["spec"].pop("pods")
    Path(path).write_text(json.dumps(run))
    assert main(["validate", path]) == 0
    said = capsys.readouterr().err
    assert "no shard matches /data/a.tar" in said
    assert "spec.data.output" not in said
