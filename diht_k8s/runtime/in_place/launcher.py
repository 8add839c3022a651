"""Launchers that restart in place: those of a gang end and start their ranks again in the living pods (see
`rounds`).
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from diht_k8s.api.errors import BY_EXIT_CODE, DihtError, ExitCode, RetryableError, StopRequested
from diht_k8s.api.gangs import decision_in
from diht_k8s.api.pods import CONTROL_VARIABLE
from diht_k8s.api.reports import ROUNDS_VARIABLE, Rounds
from diht_k8s.runtime.in_place.control_store import ControlStore
from diht_k8s.runtime.in_place.rank_processes import RankProcesses, Standbys
from diht_k8s.runtime.in_place.rounds import (
    TOLD,
    LauncherAction,
    LauncherState,
    LauncherStep,
    Register,
    RoundFailure,
    decide,
    noted,
)
from diht_k8s.runtime.preflight import Gang
from diht_k8s.runtime.progress import TIME_VARIABLE, with_recovery
from diht_k8s.runtime.signals import LOST_PEER, STOPPED, StopFlag, cause_of

TICK_S: Final = 0.05
SETTLE_S: Final = 0.3
"""A rank that fails takes others with it; after this time those that failed with it are known."""
CONSEQUENCE_S: Final = 1.5
"""A node whose ranks lost a rank of another node lets that node say why, for this long."""
NODE_FAULTS: Final = re.compile(
    r"uncorrectable ECC|uncorrectable NVLink|device\(s\) is/are busy or unavailable|no CUDA-capable device|GPU is lost"
    r"|train\.minBusBandwidth asks for"
)
"""CUDA's and the driver's words for a fault that stays on the node, and ours for a fabric that no later round
measures."""
LEAVE_S: Final = 20.0
"""Time for ranks to save before a node is taken out that is most likely lost: a step with it never ends."""
MAX_MESSAGE: Final = 300
"""Characters of a cause that each line of progress repeats."""
OUT_OF_MEMORY: Final = re.compile(r"^(torch\.)?OutOfMemoryError\b|CUDA out of memory")
MEMORY_EVENTS: Final = (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control"))
"""Where the kernel counts the processes of this container that it killed for memory (cgroup 2 and 1)."""


def launch_in_place(
    gang: Gang,
    command: Sequence[str],
    *,
    run_id: str,
    stop: StopFlag,
    say: Callable[[str], None],
    standbys: Standbys | None = None,
) -> None:
    """Run a command as every rank of this node, in as many rounds as it takes, until all nodes are done.

    Args:
        gang: shape of the gang and this node's place in it; its port is that of the control store.
        command: program and arguments of a rank.
        run_id: name of the run.
        stop: asks the ranks to end.
        say: prints a line for people.
        standbys: become the ranks (see `standby`), and are filled up again once all ranks of this node train.

    Raises:
        DihtError: what ended the gang, with its exit code and message, the same on all nodes.
        StopRequested: a signal came.
        RetryableError: launcher 0 is lost, or a node did not end its ranks in time.
    """
    launcher = _Launcher(gang, command, run_id, stop, say, standbys)
    try:
        launcher.run()
    except DihtError as error:
        error.details = {**launcher.details, **error.details}
        raise
    finally:
        launcher.close()


class _Launcher:
    def __init__(
        self,
        gang: Gang,
        command: Sequence[str],
        run_id: str,
        stop: StopFlag,
        say: Callable[[str], None],
        standbys: Standbys | None,
    ) -> None:
        self._gang, self._command, self._run_id, self._stop, self._say = gang, command, run_id, stop, say
        self._local, self._elastic = LauncherState(gang.node_rank), gang.decision is not None
        self._standbys, self._filled = standbys, False
        self._ranks: RankProcesses | None = None
        self._failed_at: float | None = None
        """when the first rank of the running round failed."""
        self._stopped_at: float | None = None
        self._register: Register | None = None
        self._out_of_memory = killed_for_memory()
        self._grace_s = float(os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "30"))
        self._time = os.environ.get(TIME_VARIABLE)
        """rank 0's account of its time, up to the end of the round before."""
        self.details: dict[str, Any] = {}
        """what the cause of a failure tells of the training."""
        single = gang.nodes == 1
        self._control = ControlStore(
            node=gang.node_rank,
            nodes=gang.nodes,
            host="localhost" if single else gang.master,
            port=0 if single else gang.port,
            token=secrets.token_hex() if single else os.environ.get(CONTROL_VARIABLE, ""),
            elastic=self._elastic,
        )

    def close(self) -> None:
        """End what runs."""
        if self._ranks is not None:
            self._ranks.end()
        self._control.close()

    def run(self) -> None:
        """Do what `decide` says until it says that this launcher ends."""
        while True:
            self._look()
            step = decide(self._control.view, self._local, time.monotonic(), contact_at=self._control.contact_at)
            if step.action is LauncherAction.EXIT:
                assert step.failure is not None
                return self._exit(step.failure)
            self._do(step)
            self._prepare()
            time.sleep(TICK_S)

    def _look(self) -> None:
        """Take in what has changed: the register, a request to stop, ranks that ended."""
        view = self._control.view
        if view is not None and view.register != self._register:
            self._register = view.register
            arrived = self._local.arrived or view.register.round
            self._local = replace(self._local, since=time.monotonic(), arrived=arrived)
        if self._gang.decision is not None and self._gang.node_rank == 0:
            self._local = replace(self._local, wanted=_wanted(self._gang.decision))
        if self._stop.requested:
            self._ask_to_stop()
        if self._ranks is None or (self._local.failure is not None and self._local.failure[0] == self._local.running):
            return
        if self._ranks.well():
            self._local = replace(self._local, well=self._local.running)
            self._end_ranks()
        elif failures := self._ranks.failures():
            self._failed_at = self._failed_at or time.monotonic()
            waited = time.monotonic() - self._failed_at
            error = cause_of(failures)
            consequence = str(error).startswith(LOST_PEER) and self._gang.nodes > 1
            if waited >= (CONSEQUENCE_S if consequence else SETTLE_S):
                self._note_failure(error, killed=any(each.exitcode == -9 for each in failures.values()))

    def _prepare(self) -> None:
        """Start standbys once all ranks of this node train; before, they would slow their start."""
        if self._standbys is None or self._filled or self._ranks is None or not self._ranks.training():
            return
        self._standbys.fill()
        self._filled = True

    def _ask_to_stop(self) -> None:
        """Pass a request on to the ranks; without any, it is the end, or a node of an elastic gang leaves."""
        self._local = replace(self._local, asked=True)
        if self._ranks is None:
            round_ = self._register.round if self._register is not None else 0
            stopped = StopRequested(STOPPED)
            if round_ == 0:
                raise stopped
            if self._local.well != round_ and not (self._elastic and self._gang.node_rank != 0):
                self._local = replace(self._local, failure=(round_, self._failure(stopped)))
        elif self._stop_ranks(self._grace_s):
            text = "stopped on request; a rank did not end in time: start again to resume"
            leaves = self._elastic and self._gang.node_rank != 0  # the others shall not wait for theirs, too
            late = RetryableError(text) if leaves else StopRequested(text)
            self._local = replace(self._local, failure=(self._local.running, self._failure(late)))

    def _stop_ranks(self, grace_s: float) -> bool:
        """Ask the ranks to save and end, once; whether some have not after the grace."""
        assert self._ranks is not None
        if self._stopped_at is None:
            self._stopped_at = time.monotonic()
            self._ranks.stop()
        return time.monotonic() - self._stopped_at > grace_s and self._ranks.living()

    def _note_failure(self, error: DihtError, *, killed: bool) -> None:
        assert self._ranks is not None
        if self._ranks.watchdog.verdict:
            error = RetryableError(self._ranks.watchdog.verdict)
        self.details.update(self._ranks.watchdog.details())
        memory = killed and killed_for_memory() > self._out_of_memory
        self._local = replace(self._local, failure=(self._local.running, self._failure(error, memory=memory)))

    def _failure(self, error: DihtError, *, memory: bool = False) -> RoundFailure:
        text = str(error)
        saved = self.details.get("checkpoint")
        return RoundFailure(
            code=int(error.exit_code),
            message=f"{text} (out of memory)" if memory else text,
            node=self._gang.node_rank,
            host=socket.gethostname(),
            step=self.details.get("step"),
            committed=saved.step if saved is not None else 0,
            final=is_final(error, memory=memory),
            asked=self._local.asked,
        )

    def _do(self, step: LauncherStep) -> None:
        round_ = self._register.round if self._register is not None else 0
        if step.action is LauncherAction.KILL:
            self._end_ranks()
        elif step.action is LauncherAction.STOP:
            self._save_and_end()
        elif step.action is LauncherAction.START:
            self._start(round_)
        elif step.action is LauncherAction.ANNOUNCE or step.action in TOLD:
            if step.action in TOLD:
                self._control.note(step.action, round_)
            else:
                self._control.announce(round_, f"{self._gang.master or 'localhost'}:{free_port()}")
            self._local = noted(self._local, step.action, round_, time.monotonic())
        elif step.action is LauncherAction.PROPOSE:
            assert self._register is not None
            assert step.register is not None
            self._control.propose(self._register, step.register)

    def _save_and_end(self) -> None:
        """Have the ranks save and end with those of all nodes; those of a round that is over, or of the last one, are
        reaped.
        """
        assert self._register is not None
        planned = self._register.planned
        if self._ranks is None or planned is None or self._local.running < self._register.round:
            if self._ranks is None or self._stop_ranks(self._grace_s) or not self._ranks.living():
                self._end_ranks()
            return
        grace_s = LEAVE_S if set(planned) - set(self._register.without) else self._grace_s
        if self._stop_ranks(grace_s):
            late = RetryableError(f"a rank did not end within {grace_s:.0f} s")
            self._local = replace(self._local, failure=(self._local.running, self._failure(late)))

    def _start(self, round_: int) -> None:
        assert self._control.view is not None
        assert self._control.view.address is not None
        assert self._register is not None
        members = [node for node in range(self._gang.nodes) if node not in self._register.without]
        place = members.index(self._gang.node_rank)
        if round_ > 1 and self._gang.node_rank == 0:
            self._say(f"train: round {round_} begins in place{_why(self._register, len(members), self._gang.nodes)}")
        self.details["rounds"] = rounds = rounds_of(self._register)
        if round_ > 1 and self._time is not None:
            self._time = with_recovery(self._time, time.monotonic())
        host, _, port = self._control.view.address.rpartition(":")
        first = place * self._gang.processes
        environments = [
            {
                "RANK": str(first + local),
                "WORLD_SIZE": str(len(members) * self._gang.processes),
                "LOCAL_RANK": str(local),
                "LOCAL_WORLD_SIZE": str(self._gang.processes),
                "GROUP_RANK": str(place),
                "MASTER_ADDR": host,
                "MASTER_PORT": port,
                "TORCHELASTIC_RUN_ID": f"{self._run_id}-{round_}",
                "TORCHELASTIC_USE_AGENT_STORE": "False",
                ROUNDS_VARIABLE: rounds.model_dump_json(),
                **({} if self._time is None else {TIME_VARIABLE: self._time}),
            }
            for local in range(self._gang.processes)
        ]
        self._ranks = RankProcesses(self._command, environments, standbys=self._standbys, say=self._say)
        self._failed_at, self._stopped_at, self._filled = None, None, False
        self._local = replace(self._local, running=round_)

    def _end_ranks(self) -> None:
        if self._ranks is not None:
            self.details.update(self._ranks.watchdog.details())
            if (note := self._ranks.watchdog.time_note()) is not None:
                self._time = note
            ranks, self._ranks = self._ranks, None
            ranks.end()
        self._local = replace(self._local, running=0)

    def _exit(self, end: RoundFailure) -> None:
        if self._register is not None:
            self.details["rounds"] = rounds_of(self._register)
        if end.code != ExitCode.DONE:
            raise BY_EXIT_CODE.get(end.code, DihtError)(end.message)


def _wanted(decision: Path) -> tuple[int, ...] | None:
    """The nodes without which the operator wants the gang to go on; None before it has decided anything."""
    try:
        found = decision_in(decision.read_text())
    except OSError:
        return None
    return None if found is None else found.without


def _why(register: Register, members: int, nodes: int) -> str:
    """Why a round begins, for its line in the log."""
    if register.counted and register.newest is not None:
        return f": {register.newest.message}"
    return f" on {members} of {nodes} nodes"


def is_final(error: DihtError, *, memory: bool) -> bool:
    """Whether the same processes would fail again in the same pods; `memory`: the kernel killed one for memory."""
    return memory or bool(OUT_OF_MEMORY.search(str(error)) or NODE_FAULTS.search(str(error)))


def rounds_of(register: Register) -> Rounds:
    """The rounds of this attempt, as progress lines and causes report them."""
    found = Rounds(round=register.round, uncounted=register.uncounted)
    why = register.newest
    if why is None:
        return found
    cause = {"exit_code": why.code, "message": why.message[:MAX_MESSAGE], "node": why.node, "host": why.host}
    return found.model_copy(update={**cause, "step": register.failed_at or None})


def killed_for_memory() -> int:
    """Processes of this container that the kernel has killed for memory; 0 where it does not say."""
    for path in MEMORY_EVENTS:
        try:
            found = re.search(r"^oom_kill (\d+)", path.read_text(), re.MULTILINE)
        except OSError:
            continue
        if found is not None:
            return int(found[1])
    return 0


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        return listener.getsockname()[1]
