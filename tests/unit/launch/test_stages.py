"""Run document and stage -> AppDef: what travels, and how it comes out of TorchX's macro substitution."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from torchx.specs import macros
from torchx.specs.overlays import get_overlay

import components
from diht_k8s.api.documents import canonical_json, load
from diht_k8s.api.errors import UserError
from diht_k8s.api.pods import CONTROL_VARIABLE
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.launch import stages
from tests.unit.api.documents import changed

VALUES = macros.Values(img_root="ROOT", app_id="APP", replica_id="3", rank0_env="MASTER_HERE")


def make_run(**changes: Any) -> DihtRun:
    return DihtRun.model_validate(changed(**changes))


@pytest.fixture
def run_file(tmp_path: Path) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(canonical_json(changed(spec__filter__workers=4)))
    return str(path)


@pytest.mark.parametrize(
    ("component", "arguments", "shape", "replicas", "name"),
    [
        (components.cat_filter, {}, {}, 4, "a-run-filter"),
        (components.cat_filter, {"j": "6"}, {}, 6, "a-run-filter"),
        (components.label, {"j": "2"}, {}, 2, "a-run-label"),
        (components.train, {}, {"num_nodes": 1, "processes_per_node": 1}, 1, "a-run-train"),
        (components.train, {"j": "2x2"}, {"num_nodes": 2, "processes_per_node": 2}, 2, "a-run-train"),
        (components.evaluate, {}, {}, 1, "a-run-evaluate"),
    ],
)
def test_component_of_a_file_ships_the_document_in_its_shape(
    run_file: str, component: Any, arguments: dict[str, str], shape: dict[str, int], replicas: int, name: str
) -> None:
    app = component("--run", run_file, "--set", "seed=7", **arguments)
    (role,) = app.roles
    env = VALUES.apply(role).env
    shipped = load(env["DIHT_RUN"], name="DIHT_RUN")
    assert env["DIHT_OWNER"] == "APP", "replicas and retries of one submission are one owner"
    assert (app.name, role.num_replicas, shipped.spec.seed) == (name, replicas, 7)
    assert role.args == ["-P", "-m", "diht_k8s.cli", "stage", role.name]
    assert {key: getattr(shipped.spec.train, key) for key in shape} == shape


def test_component_has_the_number_of_nodes_that_it_is_given_also_of_an_elastic_training(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(canonical_json(changed(spec__train__numNodes=4, spec__train__minNodes=3)))
    (role,) = components.train("--run", str(path), j="1x2").roles
    train = load(VALUES.apply(role).env["DIHT_RUN"], name="DIHT_RUN").spec.train
    assert train is not None
    assert (role.num_replicas, train.num_nodes, train.min_nodes) == (1, 1, None)


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ([], {}, "the following arguments are required: --run: write -- --run FILE"),
        (["--run", "nowhere.yaml"], {}, "cannot read the run document nowhere.yaml"),
        (["--run", "FILE", "--set", "train.bogus=1"], {}, "spec.train.bogus: unknown key"),
        (["--run", "FILE"], {"j": "2"}, "-j 2: write NODESxPROCESSES"),
        (["--run", "FILE"], {"j": "3x3"}, "train.batchSize must be at least 2 and numNodes x processesPerNode, "),
    ],
)
def test_component_with_a_users_mistake_ends_with_one_line_and_64(
    run_file: str, capsys: pytest.CaptureFixture[str], arguments: list[str], options: dict[str, str], words: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        components.train(*(run_file if item == "FILE" else item for item in arguments), **options)
    stderr = capsys.readouterr().err
    assert (ended.value.code, stderr.count("\n")) == (64, 1)
    assert words in stderr


def test_worker_count_must_be_a_number(run_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        components.cat_filter("--run", run_file, j="1x2")
    assert "-j 1x2: write a number of workers" in capsys.readouterr().err


@pytest.mark.parametrize("template", ["costs $5 {}", "${app_id} {}", "$$ {}", "$app_id {}", "é {}"])
def test_document_comes_out_of_the_macros_as_it_went_in(template: str) -> None:
    run = make_run(spec__evaluate__benchmarks__0__templates=[template])
    role = VALUES.apply(stages.stage_app(run, Stage.EVALUATE).roles[0])
    assert load(role.env["DIHT_RUN"], name="DIHT_RUN") == run


def test_workers_get_their_index_and_the_master() -> None:
    role = VALUES.apply(stages.stage_app(make_run(spec__train__numNodes=2), Stage.TRAIN).roles[0])
    given = {name: value for name, value in role.env.items() if name != "DIHT_RUN"}
    assert given == {
        "DIHT_WORKER": "3",
        "DIHT_WORKERS": "2",
        "DIHT_NODE_RANK": "3",
        "DIHT_NUM_NODES": "2",
        "DIHT_PROCESSES": "1",
        "DIHT_MASTER_VARIABLE": "MASTER_HERE",
        "DIHT_MASTER_PORT": "29500",
    }


@pytest.mark.parametrize(
    ("image", "in_document", "role_image", "entry_point"),
    [
        ("", None, "", sys.executable),
        ("", "doc:1", "doc:1", sys.executable),
        ("arg:1", "doc:1", "arg:1", "python3"),
    ],
)
def test_image_of_the_argument_wins_over_the_documents(
    image: str, in_document: str | None, role_image: str, entry_point: str
) -> None:
    run = make_run(spec__pods__image=in_document) if in_document else make_run()
    (role,) = stages.stage_app(run, Stage.LABEL, image=image).roles
    assert (role.image, role.entrypoint) == (role_image, entry_point)


def test_pods_of_the_stage_over_those_of_the_run_go_into_the_role() -> None:
    run = make_run(
        spec__pods={
            "resources": {"cpu": "2500m", "memory": "2Gi"},
            "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "$x"}],
            "nodeSelector": {"zone": "a"},
            "imagePullSecrets": ["key"],
            "labels": {"team": "t"},
        },
        spec__train__pods={
            "resources": {"nvidia.com/gpu": 8, "vendor.example/nic": 2},
            "env": [{"name": "A", "value": "2"}],
            "tolerations": [{"operator": "Exists"}],
        },
    )
    role = VALUES.apply(stages.stage_app(run, Stage.TRAIN).roles[0])
    resource = role.resource
    assert (resource.cpu, resource.memMB, resource.gpu) == (3, 2148, 8)
    assert resource.devices == {"vendor.example/nic": 2}
    assert (role.env["A"], role.env["B"]) == ("2", "$x")
    assert get_overlay(role, "kubernetes", "V1Pod") == {
        "metadata": {"labels": {"team": "t"}},
        "spec": {
            "nodeSelector": {"zone": "a"},
            "tolerations": [{"operator": "Exists"}],
            "imagePullSecrets": [{"name": "key"}],
        },
    }
    assert not get_overlay(stages.stage_app(make_run(), Stage.TRAIN).roles[0], "kubernetes", "V1Pod")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8),
        (2, 2),
        ("500m", 0.5),
        ("1.5Gi", 1.5 * 2**30),
        ("10M", 10_000_000),
        ("1e3", 1000),
        ("2E", 2e18),
        ("2Ei", 2**61),
    ],
)
def test_quantity_is_read_as_kubernetes_reads_it(text: str | int, value: float) -> None:
    assert stages.quantity(text, "x") == value


@pytest.mark.parametrize("text", ["", "-1", "8 Gi", "8GB", "a", "1e", "e3"])
def test_invalid_quantity_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"pods.resources.cpu: invalid quantity .*: write"):
        stages.quantity(text, "pods.resources.cpu")


def test_document_too_large_for_an_environment_variable_is_refused() -> None:
    run = make_run(spec__data__sources__0__shards=[f"{'x' * 900}{index}.tar" for index in range(200)])
    with pytest.raises(UserError, match="name shards by brace ranges"):
        stages.stage_app(run, Stage.FILTER)


def test_stage_that_the_run_lacks_is_refused() -> None:
    run = make_run()
    without = run.model_copy(update={"spec": run.spec.model_copy(update={"label": None})})
    with pytest.raises(UserError, match="has no stage label"):
        stages.stage_app(without, Stage.LABEL)


@pytest.mark.parametrize(
    ("restart", "stage", "has_token"),
    [("InPlace", "train", True), ("Recreate", "train", False), ("InPlace", "filter", False)],
)
def test_component_of_a_gang_that_restarts_in_place_draws_a_token_for_each_submission(
    tmp_path: Path, restart: str, stage: str, has_token: bool
) -> None:
    path = tmp_path / "run.json"
    path.write_text(canonical_json(changed(spec__failurePolicy={"restart": restart}, spec__train__numNodes=2)))
    shape = "2x1" if stage == "train" else ""
    made = [stages.component_app(stage, ["--run", str(path)], shape=shape, image="i").roles[0].env for _ in range(2)]
    found = [env.get(CONTROL_VARIABLE) for env in made]
    assert [token is not None for token in found] == [has_token] * 2
    assert not has_token or found[0] != found[1]


@pytest.mark.parametrize(
    ("stage", "arguments", "says"),
    [
        ("filter", ["--set=filter.minActions=0", "filter.workers=2"], "unrecognized arguments: filter.workers=2"),
        ("filter", ["--workers", "2"], "unrecognized arguments: --workers 2"),
        ("label", ["--step", "predicts"], "invalid choice: 'predicts'"),
        ("filter", ["--step", "predict"], "argument --step"),
    ],
)
def test_component_with_an_argument_that_no_submission_has_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], stage: str, arguments: list[str], says: str
) -> None:
    path = tmp_path / "run.json"
    path.write_text(canonical_json(changed()))
    with pytest.raises(SystemExit, match="64"):
        stages.component_app(stage, ["--run", str(path), *arguments], shape="", image="i")
    assert says in capsys.readouterr().err


def test_component_of_a_step_that_is_one_process_has_one_worker(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(canonical_json(changed(spec__label__workers=3)))
    made = {
        step: stages.component_app("label", ["--run", str(path), "--step", step], shape="", image="i").roles[0]
        for step in ("heads", "predict")
    }
    assert {step: (role.num_replicas, role.args[-2:]) for step, role in made.items()} == {
        "heads": (1, ["--step", "heads"]),
        "predict": (3, ["--step", "predict"]),
    }
