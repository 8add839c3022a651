"""Months of elastic trainings, simulated around the real plan."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from benchmarks._effective_time import Kind, Setting, best_interval
from benchmarks._elastic_time import Elasticity, ElasticSimulation

RIGID, RECREATED = Elasticity(), Elasticity(min_share=0.75)
IN_PLACE = replace(RECREATED, in_place_s=8.0)
NEVER = 1e15
"""GPU hours between two faults."""
LOST = (Kind(1.0, 75.0, infrastructure=True, takes_node=True),)
CRASH = (Kind(1.0, 10.0),)


def setting(gpus: int = 1000, **more: Any) -> Setting:
    given = Setting(gpus, **{"startup_s": 18.0, "spares": 0, **more})
    return replace(given, checkpoint_s=best_interval(given))


def test_lost_node_makes_a_rigid_training_wait_and_an_elastic_one_smaller() -> None:
    lost = setting(days=4.0, mix=LOST)
    rigid, recreated, in_place = (
        [ElasticSimulation(lost, each, seed).execute() for seed in range(10)] for each in (RIGID, RECREATED, IN_PLACE)
    )
    assert all(each.small == 0 for each in rigid)
    assert sum(each.waited_h for each in rigid) > 100
    assert sum(each.small for each in recreated) > sum(each.small for each in in_place) > 0
    assert max(each.waited_h for each in (*recreated, *in_place)) < 1
    assert {each.state for each in (*rigid, *recreated, *in_place)} == {"Complete"}


@pytest.mark.parametrize("in_place_s", [None, 8.0], ids=["recreated", "in place"])
def test_training_waits_where_fewer_nodes_are_left_than_it_may_have(in_place_s: float | None) -> None:
    few = setting(16, days=2.0, mix=LOST, gpu_hours_per_fault=16 * 12.0, policy={"schedulingTimeoutSeconds": 604800})
    barely = Elasticity(min_share=1.0, in_place_s=in_place_s)
    results = [ElasticSimulation(few, barely, seed).execute() for seed in range(5)]
    assert sum(each.waited_h for each in results) > 24
    assert all(each.small == 0 for each in results)


def test_program_that_crashes_in_place_again_and_again_ends_by_its_budget() -> None:
    crashes = setting(mix=CRASH, gpu_hours_per_fault=1000 * 60 / 3600)
    results = [ElasticSimulation(crashes, IN_PLACE, seed).execute() for seed in range(3)]
    assert {each.state for each in results} == {"Failed"}
