from __future__ import annotations

import json
from typing import Any

import pytest

from diht_k8s.api.documents import canonical_json, check, dump, load
from diht_k8s.api.errors import UserError
from diht_k8s.api.pods import merged
from tests.unit.api.documents import MINIMAL, changed


def problems(document: dict[str, Any], *overrides: str) -> list[str]:
    return [str(problem) for problem in check(json.dumps(document, indent=1), overrides=overrides)[1]]


def test_minimal_document_is_accepted() -> None:
    assert problems(MINIMAL) == []


def test_problem_names_the_line_of_the_field() -> None:
    text = "apiVersion: diht.dev/v1alpha1\nkind: DihtRun\nmetadata:\n  name: x\nspec:\n  seed: no\n"
    assert [str(p) for p in check(text)[1]] == [
        "line 6: spec.seed: expected a whole number, got false",
        "line 5: spec.data: is missing: add it",
    ]


@pytest.mark.parametrize("text", ["", "[]", "just text", "a: [", "\x00"])
def test_text_that_is_no_document_is_one_problem(text: str) -> None:
    run, found = check(text)
    assert run is None
    assert len(found) == 1


def test_broken_yaml_names_its_line_once() -> None:
    _, problems = check("a: 1\nb: [1 2\n  c: ]\n")
    assert str(problems[0]).count("line 3") == 1
    assert "column" in str(problems[0])


def test_load_names_the_file_in_each_line() -> None:
    with pytest.raises(UserError, match=r"^my\.yaml: line 1: "):
        load("[]", name="my.yaml")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.samples=2e3", 2000),
        ("spec.train.samples=2000", 2000),
    ],
)
def test_override_is_read_like_the_document(override: str, expected: int) -> None:
    run, found = check(json.dumps(MINIMAL), overrides=[override])
    assert found == []
    assert run is not None
    assert run.spec.train is not None
    assert run.spec.train.samples == expected


def test_override_reaches_list_items_and_makes_missing_mappings() -> None:
    run, found = check(
        json.dumps(MINIMAL), overrides=["data.sources.0.name=other", "filter.textSpotting.mode=Disabled"]
    )
    assert found == []
    assert run is not None
    assert run.spec.data.sources[0].name == "other"
    assert run.spec.filter is not None
    assert run.spec.filter.text_spotting.mode == "Disabled"


@pytest.mark.parametrize("override", ["train.samples", "=5", "data.sources.7.name=x", "train.samples.x=1"])
def test_override_that_leads_nowhere_is_a_user_error(override: str) -> None:
    with pytest.raises(UserError, match="--set"):
        check(json.dumps(MINIMAL), overrides=[override])


def test_numbers_written_in_different_ways_dump_alike() -> None:
    yaml = """
apiVersion: diht.dev/v1alpha1
kind: DihtRun
metadata: {name: a-run}
spec:
  data: {sources: [{name: web, shards: [a.tar], weight: %s}], output: out}
  filter: {maxBadPercent: %s}
  train: {model: ViT-B-16, samples: %s, batchSize: 8, optimizer: {lr: %s}, distillation: {mode: Disabled}}
"""
    one = load(yaml % ("1.5", "2.0", "16000000000", "1e-3"), name="a")
    other = load(yaml % ("15e-1", "2", "16e9", "0.001"), name="b")
    assert dump(one) == dump(other)
    assert dump(load(dump(one), name="c")) == dump(one)


VOLUME = {"name": "data", "emptyDir": {}}
MOUNT = {"name": "data", "mountPath": "/data"}


def test_topology_of_a_stage_replaces_the_common_one() -> None:
    """Its levels exclude each other: merged field by field, two sound ones would make a wrong one."""
    common, own = {"topology": {"required": "rack"}}, {"topology": {"preferred": "block"}}
    run = load(json.dumps(changed(spec__pods=common, spec__filter__pods=own)), name="run")
    assert run.spec.filter is not None
    topology = merged(run.spec.pods, run.spec.filter.pods).topology
    assert topology is not None
    assert (topology.required, topology.preferred) == (None, "block")


@pytest.mark.parametrize(
    ("common", "own"),
    [
        pytest.param({"volumes": [VOLUME], "volumeMounts": [MOUNT]}, {"volumes": [], "volumeMounts": []}, id="volumes"),
        pytest.param({"tolerations": [{"key": "spot", "operator": "Exists"}]}, {"tolerations": []}, id="tolerations"),
        pytest.param({"imagePullSecrets": ["registry"]}, {"imagePullSecrets": []}, id="pull secrets"),
    ],
)
def test_empty_list_of_a_stage_still_replaces_the_common_one_in_the_dump(
    common: dict[str, Any], own: dict[str, Any]
) -> None:
    run = load(json.dumps(changed(spec__pods=common, spec__filter__pods=own)), name="run")
    again = load(dump(run), name="dump")
    assert again.spec.filter is not None
    assert merged(again.spec.pods, again.spec.filter.pods).model_dump(by_alias=True, exclude_unset=True) == own


@pytest.mark.parametrize("key", ["k" * 1025, "a\u2028b", "a\u2029b", "a\x85b"], ids=ascii)
def test_key_that_no_dump_could_hold_is_refused(key: str) -> None:
    text = json.dumps(changed(spec__pods__affinity={"marker": 1})).replace('"marker"', f"? {json.dumps(key)}\n")
    run, found = check(text)
    assert run is None, check(dump(run))[1]
    assert "a key has at most 1,024 characters and no line separators" in str(found[0])


def test_canonical_json_does_not_depend_on_order_or_float_form() -> None:
    assert (
        canonical_json({"b": 1.0, "a": [1, 2.5]}) == canonical_json({"a": [1.0, 2.5], "b": 1}) == '{"a":[1,2.5],"b":1}'
    )


JARGON = ("dictionary", "instance of", "should", "valid ", "^", "pattern", "validation", "parse ", "parsing")
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown key that is near to none": (changed(spec__zzz=1), "spec.zzz: unknown key; known here: "),
    "a near key in capitals": (
        changed(spec__storage=[{"prefix": "s3://corpus", "endpointUrl": "x"}]),
        "did you mean endpointURL?",
    ),
    "another kind": (changed(kind="Diht"), "kind: \"Diht\" is not one of 'DihtRun'; did you mean DihtRun?"),
    "several words": (
        changed(spec__filter={"textSpotting": {"mode": False}}),
        "false is not one of 'Drop', 'ScoreOnly' or 'Disabled'",
    ),
    "more processes than pairs": (
        changed(spec__train__batchSize=8, spec__train__processesPerNode=9),
        "so that processes have pairs: raise it, or lower these (8 pairs, 9 processes)",
    ),
    "no sources": (changed(spec__data__sources=[]), "spec.data.sources is empty"),
    "too many shards": (
        changed(spec__data__sources=[{"name": "a", "shards": ["{0..99999999}.tar"]}]),
        "100,000,000 names, at most 1,000,000",
    ),
    "too many captions": (changed(spec__data__sources=[{"name": "a", "captions": ["{a,b}" * 21]}]), "2,097,152 names"),
    "open braces": (
        changed(spec__train__shards=["{a.tar"]),
        "the braces of {a.tar are not balanced",
    ),
    "more than a million": (changed(spec__train__optimizer={"lr": 1e9}), "expected a number of at most 1000000"),
    "a stage without fields": (
        changed(spec__filter="yes"),
        "spec.filter: expected a mapping, `name: value` lines below this one (known: ",
    ),
    "a list in place of a mapping": (changed(spec__train__loss=[1]), "spec.train.loss: expected a mapping"),
    "text in place of a list": (changed(spec__data__sources="a"), "spec.data.sources: expected a list: [A, B]"),
    "a fraction": (changed(spec__train__samples=1.5), "spec.train.samples: expected a whole number, got 1.5"),
    "text in place of a number": (changed(spec__train__optimizer={"lr": "high"}), 'expected a number, got "high"'),
    "text in place of a switch": (changed(spec__suspend="maybe"), 'spec.suspend: expected true or false, got "maybe"'),
    "a number in place of text": (
        changed(spec__train__model=16),
        "expected text (a number or yes/no needs quotes), got 16",
    ),
    "too small": (changed(spec__train__samples=0), "spec.train.samples: expected a number of at least 1, got 0"),
    "too large": (changed(spec__train__ema=1), "spec.train.ema: expected a number below 1, got 1"),
    "no entries": (
        changed(spec__data__sources=[{"name": "a", "shards": []}]),
        "shards: expected at least 1 entries, got a list of 0",
    ),
    "a name": (
        changed(metadata__name="My Run"),
        'metadata.name: expected lower-case letters, digits and dashes, beginning with a letter, got "My Run"',
    ),
    "an endpoint": (
        changed(spec__storage=[{"prefix": "s3://b", "endpointURL": "b:9000"}]),
        "expected http://HOST or https://HOST",
    ),
    "a percentage": (
        changed(spec__data__maxBadShards="a few"),
        "is neither a count nor a percentage: write for example 10 or 1%",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_message_says_what_is_expected_without_the_words_of_a_library(case: str) -> None:
    document, said = WRONG[case]
    run, problems = check(json.dumps(document))
    shown = "\n".join(map(str, problems))
    assert run is None
    assert said in shown
    assert not [word for word in JARGON if word in shown], shown


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        (
            "s3://b/0.tar",
            '"s3://b/0.tar" names no bucket: a name has 3 to 63 lower-case letters, digits, dots and dashes',
        ),
        ("s3://Team_A/0.tar", '"s3://Team_A/0.tar" names no bucket'),
        ("s3://", "names no bucket: a name has 3 to 63"),
        ("s3://bucket/a|b", "is neither plain text nor an allowed URI: use s3://bucket/key"),
        ("gcs://bucket/0.tar", "is neither plain text nor an allowed URI: use s3://bucket/key"),
        ("az://team_a/0.tar", "names no bucket"),
    ],
)
def test_uri_that_is_refused_is_told_what_is_wrong_with_it(uri: str, says: str) -> None:
    document = changed(spec__data__output=uri)
    run, problems = check(json.dumps(document))
    assert run is None
    assert any(says in problem.message for problem in problems), [str(problem) for problem in problems]
