"""TorchX AppDefs of the stages, made from a run document. Pure, except that the document's file is read.

The pod gets the document as canonical JSON in `DIHT_RUN`, and its place in the stage as `DIHT_WORKER` of
`DIHT_WORKERS`. What a Role has no field for (tolerations, volumes, ...) goes into overlays of TorchX's `kubernetes`
scheduler (`overlays`).
"""

from __future__ import annotations

import argparse
import math
import re
import secrets
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

from torchx.specs import AppDef, Resource, RetryPolicy, Role, macros
from torchx.specs.overlays import set_overlay

from diht_k8s.api.documents import dump, load, read_text
from diht_k8s.api.errors import DihtError, UserError
from diht_k8s.api.kubernetes_types.objects import number_of
from diht_k8s.api.pods import CONTROL_VARIABLE, OWNER_VARIABLE, Pods, merged, rendezvous_port
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.api.steps import SHARED_STEP, STEPS, WAIT_STEP
from diht_k8s.launch.overlays import stage_overlays
from diht_k8s.launch.pod_template import IMAGE_PYTHON

MAX_DOCUMENT_BYTES: Final = 120_000
"""Linux accepts 128 KiB in one environment variable."""
WAITING_RESOURCES: Final[Mapping[str, str]] = {"cpu": "500m", "memory": "1Gi"}
"""Most that a pod asks for which only waits for another run (our choice)."""
PLACES: Final = ("node_selector", "affinity", "runtime_class_name", "host_network", "shm_size")
"""Fields of pods by which a training finds nodes with GPUs and uses their memory and fabric."""


def component_app(stage_name: str, script_args: Sequence[str], *, shape: str, image: str) -> AppDef:
    """The AppDef that a component returns. A user error ends the program with one line on stderr and exit code 64."""
    try:
        stage = Stage(stage_name)
        options = _script_parser(stage).parse_args(list(script_args))
        overrides = [*options.overrides, *_shape_overrides(stage, shape)]
        run = load(read_text(options.run), name=options.run, overrides=overrides)
        app = stage_app(run, stage, step=options.step, image=image)
        app.roles[0].env[OWNER_VARIABLE] = macros.app_id  # one owner for all replicas and retries of a submission
        if restarts_in_place(run, stage):
            app.roles[0].env[CONTROL_VARIABLE] = secrets.token_hex()
        return app
    except DihtError as error:
        print(f"diht: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


def restarts_in_place(run: DihtRun, stage: Stage) -> bool:
    """Whether several launchers of a stage start their ranks again together, and so have a control store."""
    policy, train = run.spec.failure_policy, run.spec.train
    return stage is Stage.TRAIN and train is not None and train.num_nodes > 1 and policy.restart == "InPlace"


def stage_app(run: DihtRun, stage: Stage, *, step: str = "", arguments: Sequence[str] = (), image: str = "") -> AppDef:
    """The AppDef of one stage.

    Args:
        run: the run; its placement fields (workers, numNodes, processesPerNode, pods) shape the Role.
        stage: the stage.
        step: the part of the stage to run, where it runs as several jobs; empty runs all of it.
        arguments: further arguments of `diht stage`.
        image: container image whose `python3` has this project installed; empty takes pods.image of the run. Without an
            image the entry point is the interpreter that runs this program, as local schedulers need it; schedulers of
            containers replace it by `IMAGE_PYTHON`.

    Raises:
        UserError: the run has no such stage, is too large, or requests an invalid quantity of a resource.
    """
    if getattr(run.spec, stage.value) is None:
        raise UserError(f"the run {run.metadata.name} has no stage {stage}: add spec.{stage} to the run document")
    if step:
        run, arguments = sized_for_step(run, stage, step), ("--step", step, *arguments)
    config = getattr(run.spec, stage.value)
    gang = stage is Stage.TRAIN and step != WAIT_STEP
    pods = waiting_pods(run) if step == WAIT_STEP else merged(run.spec.pods, config.pods)
    replicas = config.num_nodes if gang else getattr(config, "workers", 1)
    role = Role(
        name=stage.value,
        image=image or pods.image or "",
        entrypoint=IMAGE_PYTHON if image else sys.executable,
        args=["-P", "-m", "diht_k8s.cli", "stage", stage.value, *map(_escaped, arguments)],
        env=_environment(run, replicas, pods) | (_gang_environment(run, replicas, pods) if gang else {}),
        num_replicas=replicas,
        # ranks start and end together; workers share the shards, and any of them can be replaced
        retry_policy=RetryPolicy.APPLICATION if gang else RetryPolicy.REPLICA,
        resource=_resource(pods),
        port_map={"rendezvous": _port(run, pods)} if gang else {},
    )
    for kind, overlay in stage_overlays(run, stage, pods, replicas, step=step).items():
        set_overlay(role, "kubernetes", kind, _escaped(overlay))
    return AppDef(name=f"{run.metadata.name}-{stage}", roles=[role])


def sized_for_step(run: DihtRun, stage: Stage, step: str) -> DihtRun:
    """The run with the workers of one step: `predict` shares the shards, every other step is one process.

    The number of workers is placement: no result depends on it.
    """
    if step in ("", SHARED_STEP, WAIT_STEP):
        return run
    config = getattr(run.spec, stage.value).model_copy(update={"workers": 1})
    return run.model_copy(update={"spec": run.spec.model_copy(update={stage.value: config})})


def on_nodes(run: DihtRun, nodes: int | None) -> DihtRun:
    """The run with its training on fewer nodes than it wishes for; None: on all of them. No result depends on it."""
    if nodes is None or run.spec.train is None:
        return run
    train = run.spec.train.model_copy(update={"num_nodes": nodes})
    return run.model_copy(update={"spec": run.spec.model_copy(update={"train": train})})


class _ScriptParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}: write -- --run FILE [--set=PATH=VALUE]... [--step STEP]")


def _script_parser(stage: Stage) -> argparse.ArgumentParser:
    """Those arguments of `diht stage` that a submission may have: worker and workers are the scheduler's to say."""
    parser = _ScriptParser(prog="", add_help=False, allow_abbrev=False)
    parser.add_argument("--run", required=True)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--step", choices=STEPS.get(stage.value, ()), default="")
    return parser


def _shape_overrides(stage: Stage, shape: str) -> list[str]:
    """Overrides of the run document for the value of `-j`."""
    if not shape:
        return []
    if stage is Stage.TRAIN:
        match = re.fullmatch(r"([1-9][0-9]*)x([1-9][0-9]*)", shape)
        if match is None:
            raise UserError(f"-j {shape}: write NODESxPROCESSES, for example -j 1x2")
        rigid = "train.minNodes="  # nobody shrinks it
        return [f"train.numNodes={match[1]}", f"train.processesPerNode={match[2]}", rigid]
    if not re.fullmatch(r"[1-9][0-9]*", shape):
        raise UserError(f"-j {shape}: write a number of workers, for example -j 4")
    return [f"{stage}.workers={shape}"]


def waiting_pods(run: DihtRun) -> Pods:
    """The pods of a training that only waits for another run: a small one, where a pod of no stage in particular runs.

    What `train.pods` adds to `spec.pods` to find GPUs would keep a node of them alive, and ask for their quota.
    """
    assert run.spec.train is not None
    common, own = run.spec.pods, merged(run.spec.pods, run.spec.train.pods)
    asked = {name: own.resources[name] for name in WAITING_RESOURCES if name in own.resources}
    small = {
        name: min(value, WAITING_RESOURCES[name], key=lambda each: quantity(each, f"pods.resources.{name}"))
        for name, value in asked.items()
    }
    places = {name: getattr(common, name) for name in PLACES}
    return own.model_copy(update={"resources": small, "topology": None, **places})


def _environment(run: DihtRun, replicas: int, pods: Pods) -> dict[str, str]:
    document = dump(run)
    if len(document.encode()) > MAX_DOCUMENT_BYTES:
        raise UserError(
            f"the run document has {len(document.encode())} bytes, a job accepts at most {MAX_DOCUMENT_BYTES}: "
            "name shards by brace ranges and globs"
        )
    env = {variable.name: _escaped(variable.value) for variable in pods.env if variable.value is not None}
    return env | {"DIHT_RUN": _escaped(document), "DIHT_WORKER": macros.replica_id, "DIHT_WORKERS": str(replicas)}


def _gang_environment(run: DihtRun, replicas: int, pods: Pods) -> dict[str, str]:
    assert run.spec.train is not None
    return {
        "DIHT_NODE_RANK": macros.replica_id,
        "DIHT_NUM_NODES": str(replicas),
        "DIHT_PROCESSES": str(run.spec.train.processes_per_node),
        # Name of the variable in which the scheduler puts the address of replica 0, the host of the rendezvous.
        "DIHT_MASTER_VARIABLE": macros.rank0_env,
        "DIHT_MASTER_PORT": str(_port(run, pods)),
    }


def _port(run: DihtRun, pods: Pods) -> int:
    return rendezvous_port(pods, f"{run.metadata.namespace or ''}/{run.metadata.name}")


def _escaped(value: Any) -> Any:
    """Escape `$` in all strings, however nested, so that TorchX's macro substitution returns the text as it was."""
    if isinstance(value, str):
        return value.replace("$", "$$")
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    return [_escaped(item) for item in value] if isinstance(value, list) else value


def _resource(pods: Pods) -> Resource:
    """Whole CPUs and MB, as TorchX counts them, rounded up; -1 if the run does not say."""
    given = {name: quantity(value, f"pods.resources.{name}") for name, value in pods.resources.items()}
    devices = {name: math.ceil(value) for name, value in given.items() if "/" in name and name != "nvidia.com/gpu"}
    return Resource(
        cpu=math.ceil(given.get("cpu", -1)),
        gpu=math.ceil(given.get("nvidia.com/gpu", 0)),
        memMB=math.ceil(given["memory"] / 10**6) if "memory" in given else -1,
        devices=devices,
    )


def quantity(value: str | int, field: str) -> float:
    """A Kubernetes quantity as a number.

    Raises:
        UserError: it is invalid; the message names `field`.
    """
    try:
        return number_of(value)
    except ValueError as error:
        raise UserError(f"{field}: {error}") from error
