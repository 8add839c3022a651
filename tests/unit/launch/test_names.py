"""Names of every AppDef become names that Kubernetes takes."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from diht_k8s.launch.pod_template import job_names, label_value, slug, unique_name

LABEL = r"[a-z]([a-z0-9-]*[a-z0-9])?"


@pytest.mark.parametrize(
    ("text", "limit", "name"),
    [
        ("Train_ViT.B/16", 63, "train-vit-b-16"),
        ("16-bit", 63, "app-16-bit"),
        ("", 63, "app"),
        ("ünïcode", 63, "n-code"),
        ("--a--", 63, "a"),
        ("abc-def", 4, "abc"),
    ],
)
def test_slug_is_a_dns_label_that_starts_with_a_letter(text: str, limit: int, name: str) -> None:
    assert slug(text, limit) == name


@example("a" * 90, [2000, 1], ["r" * 70] * 5)
@given(
    st.text(max_size=90),
    st.lists(st.integers(1, 2000), min_size=1, max_size=5),
    st.lists(st.text(max_size=70), min_size=5, max_size=5),
)
def test_hosts_of_every_application_fit(name: str, replicas: list[int], roles: list[str]) -> None:
    unique = unique_name(name, "bcdfghjk", replicas, roles=len(replicas))
    jobs = job_names(unique, roles[: len(replicas)])
    assert len(set(jobs)) == len(replicas)
    for job in [unique, *jobs]:
        assert re.fullmatch(LABEL, job)
        assert len(f"{job}-{max(replicas) - 1}") <= 63


@pytest.mark.parametrize(
    ("text", "value"), [("a b", "a-b"), ("_a.", "a"), ("A" * 70, "A" * 63), ("", ""), ("a/b:c", "a-b-c"), ("é", "")]
)
def test_label_value_is_valid(text: str, value: str) -> None:
    assert label_value(text) == value
