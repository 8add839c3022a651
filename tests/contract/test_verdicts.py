from __future__ import annotations

import pytest

from diht_k8s.api.documents import check
from diht_k8s.api.schema.cel import Rule, rules_of
from tests.contract.documents import Case
from tests.contract.documents.fields import CASES as FIELDS
from tests.contract.documents.fields import OPEN
from tests.contract.documents.rules import CASES as RULES

CASES = [*FIELDS, *RULES, *OPEN]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_document_gets_its_verdict_from_a_file(case: Case) -> None:
    run, found = check(case.text)
    problems = "\n".join(str(problem) for problem in found)
    assert (run is not None) == case.good, problems
    assert case.says in problems
    assert case.only_file in problems


def test_table_is_large_and_names_are_unique() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 70


@pytest.mark.parametrize(
    "rule",
    [
        rule
        for model in ("Spec", "Source", "Train", "Schedule", "Benchmark", "EnvVar", "Topology")
        for rule in rules_of(model)
    ],
    ids=lambda rule: rule.message[:40],
)
def test_every_rule_of_the_crd_has_a_bad_document_that_names_it(rule: Rule) -> None:
    assert any(case.says and not case.good and case.says in rule.message for case in RULES)
