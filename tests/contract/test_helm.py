"""The Helm chart: what it renders, what its schema refuses and how, and that it does not drift from manifests/ and
docs.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from diht_k8s import __version__
from diht_k8s.api.documents import check
from diht_k8s.api.hashing import stage_config
from diht_k8s.api.run import Stage
from diht_k8s.controller import metrics
from diht_k8s.controller.__main__ import _parser as operator_parser
from tests.contract.charts import (
    BASE,
    CASES,
    CHART,
    CLUSTER_KINDS,
    EVERYTHING,
    GOLDEN,
    MONITORING,
    NAMESPACED,
    NEWEST,
    OLDEST,
    ROOT,
    golden,
    kustomized,
    rendered,
    template,
)

pytestmark = pytest.mark.timeout(3600)  # the first one may build helm, after Kubernetes
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())
SAMPLES = sorted((ROOT / "manifests/samples").glob("*.yaml"))
STABLE = {
    "v1",
    "apps/v1",
    "apiextensions.k8s.io/v1",
    "coordination.k8s.io/v1",
    "rbac.authorization.k8s.io/v1",
    "networking.k8s.io/v1",
    "monitoring.coreos.com/v1",
}
CHARTS_LABELS = {
    "app.kubernetes.io/instance",
    "app.kubernetes.io/version",
    "app.kubernetes.io/managed-by",
    "helm.sh/chart",
}


def kinds(objects: list[dict[str, Any]]) -> set[str]:
    return {document["kind"] for document in objects}


def one(objects: list[dict[str, Any]], kind: str, name: str = "diht-operator") -> dict[str, Any]:
    return next(each for each in objects if (each["kind"], each["metadata"]["name"]) == (kind, name))


def test_lint_finds_nothing(helm: str) -> None:
    done = subprocess.run([helm, "lint", "--strict", str(CHART)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "WARNING" not in done.stdout


@pytest.mark.parametrize("case", CASES)
def test_rendering_is_the_golden_one(helm: str, case: str) -> None:
    expected = (GOLDEN / f"{case}.yaml").read_text()
    assert golden(helm, case) == expected, "if it is meant: python -m tests.contract.charts"


@pytest.mark.parametrize("case", CASES)
def test_oldest_and_newest_kubernetes_get_the_same_of_stable_apis(helm: str, case: str) -> None:
    old = rendered(helm, CASES[case], kubernetes=OLDEST, apis=MONITORING)
    assert old == rendered(helm, CASES[case], kubernetes=NEWEST, apis=MONITORING)
    assert {document["apiVersion"] for document in old} <= STABLE


def plain(objects: list[dict[str, Any]]) -> dict[tuple[str, str], Any]:
    """By kind and name, without what only a chart has: its labels, the policy to keep the CRD, its test."""
    found = {}
    for document in copy.deepcopy(objects):
        annotations = document["metadata"].pop("annotations", {})
        if "helm.sh/hook" in annotations:
            continue
        spec = document.get("spec", {})
        for labels in (
            document["metadata"]["labels"],
            spec.get("selector", {}).get("matchLabels", {}),
            spec.get("template", {}).get("metadata", {}).get("labels", {}),
        ):
            for name in CHARTS_LABELS & set(labels):
                del labels[name]
        found[document["kind"], document["metadata"]["name"]] = document
    return found


def test_defaults_are_the_objects_of_the_base_manifests_field_by_field(helm: str) -> None:
    ours = plain(kustomized(BASE, "diht-system", f"diht-operator:{__version__}"))
    charts = plain(rendered(helm, {}))
    crd = ("CustomResourceDefinition", "dihtruns.diht.dev")
    assert charts[crd]["spec"] == ours[crd]["spec"]
    del charts[crd], ours[crd]
    assert charts == ours


def test_namespaced_scope_makes_nothing_cluster_wide_and_serves_its_namespace(helm: str) -> None:
    objects = rendered(helm, NAMESPACED)
    assert not kinds(objects) & CLUSTER_KINDS
    assert {document["metadata"]["namespace"] for document in objects} == {"diht-system"}
    assert "--namespace=diht-system" in one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"]
    wide = one(rendered(helm, {}), "ClusterRole")["rules"]
    optional = ({"kueue.x-k8s.io"}, {"scheduling.k8s.io"})
    kept = [
        rule
        for rule in wide
        if set(rule["apiGroups"]) not in optional and rule["resources"] not in (["nodes"], ["pods/status"])
    ]
    assert one(objects, "Role")["rules"] == kept
    assert one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"][-2:] == [
        "--kueue=never",
        "--pod-groups=never",
    ]


def test_rights_to_create_and_delete_are_bound_to_the_tenants_where_they_are_named(helm: str) -> None:
    objects = rendered(helm, {"rbac": {"tenants": ["team-a", "team-b"]}})
    wide = one(objects, "ClusterRole")["rules"]
    written = {(rule["resources"][0], verb) for rule in wide for verb in rule["verbs"]} - {("dihtruns", "get")}
    reads = ("list", "watch", "get")
    assert {pair for pair in written if pair[1] not in reads} == {("dihtruns/status", "patch"), ("events", "create")}
    assert ("pods/log", "get") not in written
    everywhere = one(rendered(helm, {}), "ClusterRole")["rules"]
    narrow = one(objects, "ClusterRole", "diht-operator-tenant")["rules"]
    assert narrow == [rule for rule in everywhere if rule in narrow]
    assert {(each["resources"][0], *each["verbs"]) for each in everywhere} - {
        (each["resources"][0], *each["verbs"]) for each in narrow
    } == {
        ("resourceflavors", "get"),
        ("workloadpriorityclasses", "get"),
        ("priorityclasses", "get"),
        ("nodes", "list", "watch"),
    }
    bound = [
        each for each in objects if each["kind"] == "RoleBinding" and each["roleRef"]["name"] == "diht-operator-tenant"
    ]
    assert [each["metadata"]["namespace"] for each in bound] == ["team-a", "team-b"]
    assert {each["subjects"][0]["namespace"] for each in bound} == {"diht-system"}
    assert rendered(helm, {"rbac": {"tenants": ["team-a"], "scope": "namespaced"}}) == rendered(
        helm, {"rbac": {"scope": "namespaced"}}
    )


def test_roles_of_the_operator_name_what_they_mean(helm: str) -> None:
    for document in rendered(helm, {}):
        for rule in document.get("rules", []):
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            assert not any("/" in group for group in rule["apiGroups"])
            assert "secrets" not in rule["resources"]


def test_crd_is_kept_unless_asked_otherwise(helm: str) -> None:
    name, of = "dihtruns.diht.dev", {"diht.dev/version": __version__}
    kept = one(rendered(helm, {}), "CustomResourceDefinition", name)["metadata"]["annotations"]
    assert kept == {**of, "helm.sh/resource-policy": "keep"}
    left = one(rendered(helm, {"crds": {"keep": False}}), "CustomResourceDefinition", name)
    assert left["metadata"]["annotations"] == of
    assert "CustomResourceDefinition" not in kinds(rendered(helm, {"crds": {"install": False}}))


def test_values_of_an_older_version_reused_as_they_were_are_refused_with_what_to_do(helm: str) -> None:
    done = template(helm, {"tests": None})
    assert done.returncode != 0
    assert "helm upgrade --reset-then-reuse-values keeps yours and adds the new defaults" in done.stderr


def test_alerts_and_dashboard_ask_for_metrics_that_the_operator_has(helm: str) -> None:
    objects = rendered(helm, EVERYTHING, apis=MONITORING)
    rules = one(objects, "PrometheusRule")["spec"]["groups"][0]["rules"]
    board = json.loads(one(objects, "ConfigMap", "diht-operator-dashboard")["data"]["diht-operator.json"])
    asked = json.dumps(rules) + json.dumps(board)
    known = {
        family.name
        for metric in vars(metrics).values()
        if isinstance(metric, MetricWrapperBase)
        for family in metric.describe()
    }
    for name in set(re.findall(r"diht_operator_[a-z_]+", asked)):
        assert re.sub("_(bucket|count|sum|total)$", "", name) in known, name


def test_arguments_are_options_of_the_operator(helm: str) -> None:
    spec = one(rendered(helm, EVERYTHING, apis=MONITORING), "Deployment")["spec"]["template"]["spec"]
    given = operator_parser().parse_args(spec["containers"][0]["args"])
    assert (given.workers, given.log_level, given.log_format, given.lease_name) == (16, "debug", "text", "diht")
    assert (given.job_ttl, given.run_ttl, given.history_limit) == (3600, 2_592_000, 500)
    plain = one(rendered(helm, {}), "Deployment")["spec"]["template"]["spec"]
    given = operator_parser().parse_args(plain["containers"][0]["args"])
    values = DEFAULTS["operator"]
    assert given.job_ttl == values["jobTTLSeconds"] == 86_400
    assert (given.run_ttl, given.history_limit) == (values["runTTLSeconds"], values["historyLimit"]) == (0, 0)


@pytest.mark.parametrize(("seconds", "taken"), [(0, True), (1, False), (599, False), (600, True), (-1, False)])
def test_jobs_stay_long_enough_to_be_read_or_for_ever(
    helm: str, capsys: pytest.CaptureFixture[str], seconds: int, taken: bool
) -> None:
    done = template(helm, {"operator": {"jobTTLSeconds": seconds}})
    assert (done.returncode == 0) is taken, done.stderr
    assert taken or "minimum: got" in done.stderr
    assert "'not'" not in done.stderr
    argument = f"--job-ttl={seconds}"
    if taken:
        assert argument in done.stdout
        assert operator_parser().parse_args([argument]).job_ttl == seconds
        return
    with pytest.raises(SystemExit):
        operator_parser().parse_args([argument])
    assert "600 or more, or 0 to keep Jobs for ever" in capsys.readouterr().err


def nodes(schema: dict[str, Any], path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every schema of the values with its path; an item of a list is its first."""
    yield path, schema
    for name, value in schema.get("properties", {}).items():
        yield from nodes(value, (*path, name))
    if "items" in schema:
        yield from nodes(schema["items"], (*path, 0))


def put(values: Any, path: tuple[str | int, ...], value: Any) -> Any:
    """The values with one of them at the path, in place."""
    if not path:
        return value
    name, rest = path[0], path[1:]
    if isinstance(name, int):
        return [put(values[0] if values else None, rest, value)]
    values = dict(values or {})
    values[name] = put(values.get(name), rest, value)
    return values


def at(path: tuple[str | int, ...]) -> str:
    return "at '" + "".join(f"/{name}" for name in path) + "'"


def wrong_types(schema: dict[str, Any], path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """The deepest places only, so that no wrong value hides another."""
    if not schema.get("properties") and "items" not in schema:
        yield path, [] if schema["type"] != "array" else "x"


def wrong_values(schema: dict[str, Any], path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    if "enum" in schema or "pattern" in schema:
        yield path, "?"
    elif "minimum" in schema:
        yield path, schema["minimum"] - 1
    elif schema.get("type") == "object" and isinstance(values := schema.get("additionalProperties"), dict):
        yield (*path, "key"), "lots" if "$ref" in values else 7


def wrong_sizes(schema: dict[str, Any], path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    if "maximum" in schema:
        yield path, schema["maximum"] + 1
    elif "maxLength" in schema:
        yield path, "a" * (schema["maxLength"] + 1)


def unknown_keys(schema: dict[str, Any], path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    if schema.get("additionalProperties") is False:
        yield (*path, "imgae"), "x"


@pytest.mark.parametrize("kind", [wrong_types, wrong_values, wrong_sizes, unknown_keys], ids=lambda kind: kind.__name__)
def test_schema_refuses_every_wrong_value_and_names_its_place(helm: str, kind: Any) -> None:
    cases = [case for path, schema in nodes(SCHEMA) for case in kind(schema, path)]
    assert len(cases) >= 10
    values: Any = {}
    for path, value in cases:
        values = put(values, path, value)
    done = template(helm, values)
    assert done.returncode != 0
    for path, _ in cases:
        place = at(path[:-1]) if kind is unknown_keys else at(path)
        assert any(place in line and "validation failed" not in line for line in done.stderr.splitlines()), place


def test_schema_is_closed_and_knows_every_value_and_no_other() -> None:
    for path, schema in nodes(SCHEMA):
        if schema["type"] == "object" and "properties" in schema and path[:1] != ("extraEnv",):
            assert schema["additionalProperties"] is False, path
    known = {path for path, _ in nodes(SCHEMA) if path and 0 not in path} - {("global",)}

    def keys(values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
        for name, value in values.items():
            yield (*path, name)
            if (*path, name) in known and isinstance(value, dict):
                yield from (each for each in keys(value, (*path, name)) if each in known)

    assert set(keys(DEFAULTS)) == known


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_sample_is_valid_and_says_what_it_shows(sample: Path) -> None:
    text = sample.read_text()
    assert text.startswith("# ")
    run, problems = check(text)
    assert run is not None, problems
    assert run.spec.pods.image == f"registry.example.org/diht-recipe:{__version__}" or sample.stem == "laptop"


def test_sample_that_resumes_has_the_configuration_of_the_run_that_it_resumes() -> None:
    configs = []
    for name in ("one-gpu-node", "resume-from-checkpoint"):
        run, _ = check((ROOT / f"manifests/samples/{name}.yaml").read_text())
        assert run is not None
        configs.append([stage_config(run.spec, stage, {}, {}) for stage in Stage])
    assert configs[0] == configs[1]


@pytest.fixture(scope="module")
def chart_with_notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart, whose NOTES.txt `helm template` would leave out, with a template that has them as a value."""
    folder = Path(shutil.copytree(CHART, tmp_path_factory.mktemp("notes") / "diht-operator"))
    text = '{"kind": "Notes", "text": {{ include (print .Template.BasePath "/NOTES.txt") . | toJson }}}\n'
    (folder / "templates/notes.yaml").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("values", "image", "command"),
    [
        ({}, f"diht-recipe:{__version__}", "kubectl apply"),
        (
            {"image": {"repository": "reg.example.org/a/diht-operator"}},
            f"reg.example.org/a/diht-recipe:{__version__}",
            "kubectl apply",
        ),
        ({"rbac": {"scope": "namespaced"}}, f"diht-recipe:{__version__}", "kubectl -n diht-system apply"),
        ({"tests": {"program": False}}, f"registry.example.org/diht-recipe:{__version__}", "kubectl apply"),
        ({"crds": {"install": False}}, f"diht-recipe:{__version__}", "kubectl apply"),
    ],
)
def test_notes_have_a_first_run_that_is_valid_and_name_no_file_of_a_checkout(
    helm: str, chart_with_notes: Path, values: dict[str, Any], image: str, command: str
) -> None:
    notes = next(each["text"] for each in rendered(helm, values, chart=chart_with_notes) if each["kind"] == "Notes")
    document = re.search(rf"(?s)  {command} -f - <<END\n(.*?)\n  END\n", notes)
    assert document, notes
    run, problems = check(document[1])
    assert (problems, run and run.spec.pods and run.spec.pods.image) == ([], image)
    assert "manifests/" not in notes
    assert ("helm template diht-operator CHART --show-only templates/crd/" in notes) is ("crds" in values)
