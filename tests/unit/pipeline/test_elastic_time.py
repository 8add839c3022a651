"""The simulation of elastic trainings: what a node that is away costs, by hand, and months around the real plan."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from benchmarks._effective_time import DAY, Kind, Setting, best_interval
from benchmarks._elastic_time import Elasticity, ElasticSimulation, Machines

RIGID, RECREATED = Elasticity(), Elasticity(min_share=0.75)
IN_PLACE = replace(RECREATED, in_place_s=8.0)
NEVER = 1e15
"""GPU hours between two faults."""
LOST = (Kind(1.0, 75.0, infrastructure=True, takes_node=True),)
CRASH = (Kind(1.0, 10.0),)


def setting(gpus: int = 1000, **more: Any) -> Setting:
    given = Setting(gpus, **{"startup_s": 18.0, "spares": 0, **more})
    return replace(given, checkpoint_s=best_interval(given))


@pytest.mark.parametrize(
    ("now", "there", "returns", "healthy"),
    [(0, 3, math.inf, 0), (10, 2, 40, 30), (20, 1, 30, 50), (35, 2, 40, 70), (50, 3, math.inf, 110)],
)
def test_nodes_are_away_for_their_repair(now: float, there: int, returns: float, healthy: float) -> None:
    machines = Machines(3, [each for each in ((10.0, 40.0), (20.0, 30.0)) if each[0] <= now])
    assert (machines.there(now), machines.next_return(now), machines.healthy_s(now)) == (there, returns, healthy)


@pytest.mark.parametrize(
    ("pairs_per_gpu", "nodes", "speed"),
    [(64, 125, 1.0), (64, 124, 64 / 65), (64, 100, 0.8), (1, 124, 0.5)],
    ids=["all", "a row more for all", "no rows without a pair", "half of the rows without a pair"],
)
def test_second_on_fewer_nodes_is_worth_less_also_by_rows_without_a_pair(
    pairs_per_gpu: int, nodes: int, speed: float
) -> None:
    made = ElasticSimulation(setting(), replace(RECREATED, pairs_per_gpu=pairs_per_gpu), 0)
    assert made._speed(nodes) == pytest.approx(speed)


@pytest.mark.parametrize("elasticity", [RIGID, RECREATED, IN_PLACE], ids=["rigid", "recreated", "in place"])
@pytest.mark.parametrize("spares", [0, 5])
def test_training_without_faults_costs_start_checkpoints_and_idle_spares(elasticity: Elasticity, spares: int) -> None:
    given = replace(setting(days=1.0, spares=spares, gpu_hours_per_fault=NEVER), checkpoint_s=900.0)
    found = ElasticSimulation(given, elasticity, 0).execute()
    wall = 18 + DAY * (1 + given.stall_s / 900)
    assert found.days * DAY == pytest.approx(wall)
    assert found.useful == pytest.approx(DAY / wall * 125 / (125 + spares))
    assert (found.state, found.failures, found.resizings) == ("Complete", 0, 0)


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


def test_time_until_a_fault_is_found_is_lost() -> None:
    at_once, late = (
        ElasticSimulation(setting(mix=(Kind(1.0, found_s),)), RECREATED, 0).execute() for found_s in (0.0, 3600.0)
    )
    assert at_once.failures == late.failures > 0
    assert (late.days - at_once.days) * 24 == pytest.approx(late.failures)


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
