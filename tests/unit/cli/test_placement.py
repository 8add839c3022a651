"""`diht run` changes where a run happens, and says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from diht_k8s.api.gangs import may_have_batch_statistics
from diht_k8s.api.hashing import result_fields
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.cli import placement, sweep
from diht_k8s.cli import run as cli_run
from diht_k8s.cli.local_runner import StopSignals
from diht_k8s.cli.placement import Machine, has_batch_statistics, place, this_machine, threads_per_process
from tests.unit.api.documents import REMOVE, changed


def make_run(**changes: Any) -> DihtRun:
    return DihtRun.model_validate(changed(**changes))


@pytest.mark.parametrize(
    ("batch", "machine", "processes"),
    [
        (8, Machine(2), 2),
        (8, Machine(1), 1),
        (7, Machine(2), 2),
        (96, Machine(16, gpus=8), 8),
        (97, Machine(16, gpus=8), 8),
        (12, Machine(16, gpus=8), 6),  # of 8, two would have no pair
        (2, Machine(16, gpus=8), 2),
    ],
)
def test_training_takes_as_many_processes_as_lower_the_share_of_each(
    batch: int, machine: Machine, processes: int
) -> None:
    run, _ = place(make_run(spec__train__batchSize=batch, spec__train__microBatchSize=3), machine, None)
    assert run.spec.train is not None
    assert (run.spec.train.processes_per_node, run.spec.train.micro_batch_size) == (processes, 3)


@pytest.mark.parametrize(
    ("written", "machine", "processes"),
    [
        ({"processesPerNode": 1}, Machine(16), 1),
        ({"processesPerNode": 1, "numNodes": 2}, Machine(16), 2),
        ({"processesPerNode": 8, "numNodes": 4}, Machine(16), 2),
        ({"numNodes": 1}, Machine(16), 2),
        ({"processesPerNode": 1}, Machine(16, gpus=8), 8),  # none is left idle
    ],
)
def test_training_without_gpus_takes_no_more_processes_than_the_document_asks_for(
    written: dict[str, int], machine: Machine, processes: int
) -> None:
    train = {f"spec__train__{name}": value for name, value in written.items()}
    run, _ = place(make_run(spec__train__batchSize=96, **train), machine, None)
    assert run.spec.train is not None
    assert (run.spec.train.num_nodes, run.spec.train.processes_per_node) == (1, processes)


@pytest.mark.parametrize(
    ("batch", "micro", "locked", "machine", "processes"),
    [
        (8, None, False, Machine(2), 2),
        (7, None, False, Machine(2), 1),
        (7, None, True, Machine(2), 2),  # what is trained has none
        (96, 12, False, Machine(16, gpus=8), 8),
        (97, 9, False, Machine(16, gpus=8), 1),  # refused anywhere
        (96, 16, False, Machine(16, gpus=8), 8),  # all of a process's pairs at once
        (96, 8, False, Machine(16, gpus=8), 6),
        (98, None, False, Machine(16, gpus=8), 7),
    ],
)
def test_training_with_batch_statistics_takes_processes_that_divide_the_batch(
    batch: int,
    micro: int | None,
    locked: bool,
    machine: Machine,
    processes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(placement, "has_batch_statistics", lambda _: True)
    changes = {} if micro is None else {"spec__train__microBatchSize": micro}
    run = make_run(spec__train__batchSize=batch, spec__train__lockImageTower=locked, **changes)
    placed, _ = place(run, machine, None)
    assert placed.spec.train is not None
    assert (placed.spec.train.processes_per_node, placed.spec.train.micro_batch_size) == (processes, micro)


@pytest.mark.parametrize(
    ("vision", "expected"),
    [
        ({"layers": 2, "width": 32, "patch_size": 16}, False),
        ({"layers": [1, 1, 1, 1], "width": 8}, True),
        ({"layers": "many"}, False),  # open_clip refuses it, and the stage says so
    ],
)
def test_batch_statistics_of_a_model_are_known_before_it_is_placed(vision: dict[str, Any], expected: bool) -> None:
    text = {"context_length": 12, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
    config = {"embed_dim": 16, "vision_cfg": {"image_size": 32, **vision}, "text_cfg": text}
    train = make_run(spec__train__model=REMOVE, spec__train__modelConfig=config).spec.train
    assert train is not None
    assert has_batch_statistics(train) is expected
    assert may_have_batch_statistics(train) >= expected, "what the document tells is no less careful"


@pytest.mark.parametrize("command", ["run", "sweep"])
def test_command_when_the_model_has_batch_statistics_then_its_processes_divide_the_batch(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[DihtRun] = []
    for module in (cli_run, sweep):
        monkeypatch.setattr(module, "this_machine", lambda: Machine(16, gpus=8))
        monkeypatch.setattr(module, "stop_signals", StopSignals)
        monkeypatch.setattr(module, "run_here", lambda run, *_, **__: started.append(run) or 1)
    monkeypatch.setattr(sweep, "_found", lambda runs: ({}, []))
    document = tmp_path / "run.json"
    document.write_text(json.dumps(changed(spec__train__model="RN50", spec__train__batchSize=98)))
    if command == "run":
        cli_run.run_command(str(document), overrides=[], workdir=None, until=None)
    else:
        sweep.sweep_command(str(document), ["train.model=RN50,ViT-B-32"], None, [], output="c.html", dry_run=False)
    found = [run.spec.train.processes_per_node for run in started if run.spec.train is not None]
    assert found == {"run": [7], "sweep": [7, 8]}[command]


def test_every_change_is_reported_in_one_line_and_changes_no_result() -> None:
    before = make_run(
        spec__filter__workers=64,
        spec__train__numNodes=4,
        spec__train__minNodes=2,
        spec__suspend=True,
        spec__pods__image="recipe:1",
        spec__data__output="runs/a",
    )
    after, lines = place(before, Machine(2), "work")
    assert after.spec.train is not None
    assert after.spec.train.min_nodes is None, "which is at most numNodes"
    assert lines == [
        "spec.data.output: runs/a -> work/runs/a",
        "spec.filter.workers: 64 -> 2",
        "spec.label.workers: 1 -> 2",
        "spec.train.numNodes: 4 -> 1",
        "spec.train.processesPerNode: 1 -> 2",
        "spec.suspend: True -> False",
        "pods: ignored on this machine",
    ]
    for stage in Stage:
        assert result_fields(getattr(before.spec, stage)) == result_fields(getattr(after.spec, stage))


@pytest.mark.parametrize(
    ("written", "workers"), [({}, 4), ({"spec__filter__workers": 1}, 1), ({"spec__filter__workers": 9}, 4)]
)
def test_workers_are_the_cores_unless_the_document_asks_for_fewer(written: dict[str, int], workers: int) -> None:
    placed, _ = place(make_run(**written), Machine(4), None)
    assert placed.spec.filter is not None
    assert placed.spec.filter.workers == workers


def test_a_run_that_fits_is_left_as_it_is() -> None:
    run = make_run()
    placed, lines = place(run, Machine(1), None)
    assert (placed, lines) == (run, [])


@pytest.mark.parametrize("output", ["s3://corpus/runs/a", "/data/a", "file:///data/a", "~/a"])
def test_workdir_leaves_absolute_outputs(output: str) -> None:
    run, _ = place(make_run(spec__data__output=output), Machine(1), "work")
    assert run.spec.data.output == output


@pytest.mark.parametrize(
    ("stage", "machine", "threads"),
    [(Stage.FILTER, Machine(4), 1), (Stage.TRAIN, Machine(4), 2), (Stage.EVALUATE, Machine(4), 4)],
)
def test_threads_use_each_core_once(stage: Stage, machine: Machine, threads: int) -> None:
    run, _ = place(make_run(), machine, None)
    assert threads_per_process(run, stage, machine) == threads


LISTS = {
    "two": ["GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-1)", "GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-2)"],
    "slices": ["GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-1)", "  MIG 1g.10gb     Device  0: (UUID: MIG-1)"],
    "unknown": ["GPU 0: NVIDIA TITAN RTX (UUID: GPU-1)"],
    "no driver": ["NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."],
}


@pytest.mark.parametrize(
    ("listed", "visible", "gpus", "gpu"),
    [
        ("two", None, 2, "H100"),
        ("two", "1", 1, "H100"),
        ("two", "", 0, None),
        ("two", "-1", 0, None),
        ("slices", None, 1, "A100-80"),
        ("unknown", None, 1, None),
        ("no driver", None, 0, None),
        ("no driver", "0", 1, None),
    ],
)
def test_gpus_and_the_name_of_the_first(
    listed: str, visible: str | None, gpus: int, gpu: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\n" + "".join(f'echo "{line}"\n' for line in LISTS[listed]))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = this_machine()
    assert (found.gpus, found.gpu) == (gpus, gpu)
