"""The rounds of a gang: how its launchers agree that their ranks end and start again, or that all is over. Pure.

One register holds the round and, once no further round begins, the end. It moves by compare-and-set alone, so of
several launchers that report failures of a round one decides. Every launcher then ends and reaps its ranks and
acknowledges the new round. Only when all have, launcher 0 announces where its ranks meet; so while any process of an
older round lives, no newer round begins. Whatever keeps a launcher from acknowledging ends the gang, which is then
created again.

An elastic gang does not end then. The operator alone decides without which nodes it goes on (`pipeline.elasticity`),
and until it does, a round that misses a launcher is held open. The launcher of a new pod in the place of a lost one
proposes a round of its own where it is a member, and waits where it is none. A node that is asked to stop leaves; if it
is node 0, that is the end.

`decide` looks at what is known and says what to do next, as `pipeline.plan` does for runs: nothing depends on having
seen an event.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from pydantic import BaseModel, ConfigDict

from diht_k8s.api.errors import NEVER_RETRIED, ExitCode

UNREACHABLE_S: Final = 10.0
"""A control store that has not answered for this long is lost, and launcher 0 with it."""
ACKNOWLEDGE_S: Final = 30.0
"""Time for all launchers to end their ranks and acknowledge a round."""
HELD_S: Final = 1800.0
"""How long an elastic gang waits for launchers or for the operator's decision, which is made after some minutes at
most."""
FIRST_ROUND_S: Final = 300.0
"""The same for the first round, in which pods are still scheduled."""
DONE_S: Final = 300.0
"""Time between the first node whose ranks have all ended well and the last one."""
SHUTDOWN_S: Final = 5.0
"""How long launcher 0 keeps the store for launchers that have not seen the end."""
CONSEQUENCE_S: Final = 2.0
"""How much later launchers end that did not cause the end, so that the cluster sees who failed first."""
MAX_STALLED: Final = 3
"""Rounds in a row that may fail before the step at which the first of them failed is committed (our choice)."""


class RoundFailure(BaseModel):
    """The failure of a round on one node, or the end of all rounds."""

    model_config = ConfigDict(frozen=True)

    code: int
    """exit code; negative for a signal."""
    message: str
    node: int
    """rank of the node that reports it."""
    host: str = ""
    step: int | None = None
    """at which it failed, from 1; None if unknown."""
    committed: int = 0
    """step of the newest committed checkpoint that the node knows of."""
    final: bool = False
    """whether the same processes would fail again here: out of memory, a fault of the node."""
    asked: bool = False
    """whether this node itself was asked to stop."""


class Register(BaseModel):
    """The state on which all launchers agree."""

    model_config = ConfigDict(frozen=True)

    round: int = 1
    elastic: bool = False
    """whether the gang goes on as nodes go and come."""
    without: tuple[int, ...] = ()
    """nodes that are no part of this round, by the index of their pods."""
    planned: tuple[int, ...] | None = None
    """those that are no part of the next one, for which the ranks of this one save and end; None: nothing is to
    change."""
    counted: bool = True
    """whether a program's failure began this round."""
    uncounted: int = 0
    """rounds that none began, and those of a lost node."""
    orderly: bool = False
    """whether the ranks of the round before save and end by themselves."""
    stalled: int = 0
    """failures in a row without progress."""
    failed_at: int = 0
    """furthest step at which a round failed."""
    newest: RoundFailure | None = None
    """the newest failure of a program; None before the first."""
    end: RoundFailure | None = None
    """why no further round begins (code 0: all ranks are done); None while one may."""


def next_register(register: Register, failure: RoundFailure) -> Register:
    """The register after a failure of its round: the next round, or the end.

    Nothing counts as progress before the step at which a round failed is committed (as in `pipeline.failure_policy`),
    so failing at the same step over and over ends the gang.
    """
    if register.end is not None:
        return register
    if failure.code == ExitCode.STOPPED and _goes_on(register, failure):
        return moved(register, orderly=True)
    step = failure.step if failure.step is not None else failure.committed + 1
    progress = failure.committed >= register.failed_at
    stalled = 1 if progress else register.stalled + 1
    known = {"failed_at": max(register.failed_at, step), "stalled": stalled}
    if failure.final or failure.code in (*NEVER_RETRIED, ExitCode.DONE, ExitCode.STOPPED):
        return register.model_copy(update={**known, "end": failure})
    if register.planned is not None:  # most likely by the node that is to go
        return moved(register)
    if stalled > MAX_STALLED:
        text = f"{failure.message} (failed {stalled} times in a row before step {known['failed_at']} was saved)"
        end = failure.model_copy(update={"code": int(ExitCode.RETRYABLE), "message": text})
        return register.model_copy(update={**known, "end": end})
    began = {"round": register.round + 1, "newest": failure, "counted": True, "orderly": False}
    return register.model_copy(update={**known, **began})


def _goes_on(register: Register, stopped: RoundFailure) -> bool:
    """Whether ranks that were asked to stop go on in another round: node 0 was not asked, or all save for that
    round.
    """
    ends = stopped.asked and stopped.node == 0
    return not ends and (register.elastic or register.planned is not None)


def resized(register: Register, without: tuple[int, ...], *, begun: bool) -> Register:
    """The register after the operator's decision to go on without some nodes, or with them again.

    Args:
        register: before.
        without: nodes that are no part of the gang from now on.
        begun: whether ranks of the round may run, which first save.
    """
    if begun:
        return register.model_copy(update={"planned": None if without == register.without else without})
    return moved(register.model_copy(update={"planned": without}), begun=False)


def moved(register: Register, *, begun: bool = True, orderly: bool = False) -> Register:
    """The next round, of the nodes that are planned, which counts as nobody's failure.

    Where no rank of this round ever ran, the failure that began it was the loss of a node, and does not count either.
    """
    loss = register.counted and not begun and register.round > 1
    update = {
        "round": register.round + 1,
        "without": register.without if register.planned is None else register.planned,
        "planned": None,
        "counted": False,
        "uncounted": register.uncounted + 1 + loss,
        "orderly": orderly,
        "stalled": max(0, register.stalled - loss),
    }
    return register.model_copy(update=update)


@dataclass(frozen=True)
class StoreView:
    """The control store as a launcher last read it; all but the register is about the register's round."""

    register: Register
    acknowledged: bool = False
    """whether all launchers of the round have ended the ranks of earlier ones."""
    address: str | None = None
    """at which the ranks meet; None until all have acknowledged."""
    done: bool = False
    """whether the ranks of all nodes of the round have ended well."""
    all_left: bool = False
    """whether all other launchers have seen the end."""
    replaced: bool = False
    """whether the launcher of a newer pod has taken this one's place."""
    waiting: frozenset[int] = frozenset()
    """launcher 0: nodes that are no part of the round and wait to be taken in."""


@dataclass(frozen=True)
class LauncherState:
    """The state of one launcher."""

    node: int
    running: int = 0
    """round whose ranks are not all reaped; 0: there are none."""
    acknowledged: int = 0
    announced: int = 0
    """launcher 0: newest round whose address it has published."""
    well: int = 0
    """round in which all ranks of this node ended well; 0: none."""
    reported: int = 0
    """newest round that was reported as ended well."""
    failure: tuple[int, RoundFailure] | None = None
    """newest failure of this node and its round."""
    arrived: int = 0
    """the round that it has read first."""
    asked: bool = False
    """whether it was asked to stop."""
    wanted: tuple[int, ...] | None = None
    """launcher 0: nodes without which the operator wants the gang to go on; None before it has decided anything."""
    waits: int = 0
    """newest round of which it has told that it waits outside."""
    seen: int = 0
    """round whose end this launcher has told that it saw."""
    since: float = 0.0
    """when it first saw the register as it is, or since then reported that its ranks had ended well."""


class LauncherAction(StrEnum):
    """The actions of a launcher."""

    WAIT = "wait"
    KILL = "kill"
    """end the ranks and reap them."""
    STOP = "stop"
    """ask the ranks to save and end, since all others do; reap them."""
    WAIT_OUTSIDE = "waits"
    """tell that this node, which is no part of the round, waits to be taken in."""
    ACKNOWLEDGE = "acknowledged"
    """tell that the ranks of all earlier rounds have ended here."""
    ANNOUNCE = "announced"
    """publish the address at which the ranks of this round meet."""
    START = "start"
    """start this node's ranks."""
    PROPOSE = "propose"
    """compare-and-set the register to `register`."""
    REPORT = "reported"
    """tell that this node's ranks have ended well."""
    SHUTDOWN = "seen"
    """tell that this launcher has seen the end."""
    EXIT = "exit"


TOLD: Final = frozenset(
    {LauncherAction.WAIT_OUTSIDE, LauncherAction.ACKNOWLEDGE, LauncherAction.REPORT, LauncherAction.SHUTDOWN}
)
"""What launchers tell each other of a round; each has the name of its field of `LauncherState`."""


def noted(local: LauncherState, action: LauncherAction, round_: int, now: float) -> LauncherState:
    """The state once an action of `TOLD`, or ANNOUNCE, is done for a round."""
    since = now if action is LauncherAction.REPORT else local.since
    return replace(local, **{action.value: round_}, since=since)


@dataclass(frozen=True)
class LauncherStep:
    """The next action of a launcher."""

    action: LauncherAction
    failure: RoundFailure | None = None
    """to exit with."""
    register: Register | None = None
    """to propose."""


def decide(view: StoreView | None, local: LauncherState, now: float, *, contact_at: float) -> LauncherStep:
    """The next step of a launcher.

    Args:
        view: what it has last read; None before the first time.
        local: what it knows of itself.
        now: seconds that only grow.
        contact_at: when the control store last answered, or when this launcher began.
    """
    limit = FIRST_ROUND_S if view is None else UNREACHABLE_S
    if now - contact_at > limit:
        lost = _transient(local, f"launcher 0 has not answered for {limit:.0f} s: the gang starts again")
        return LauncherStep(LauncherAction.KILL) if local.running else LauncherStep(LauncherAction.EXIT, lost)
    if view is None:
        return LauncherStep(LauncherAction.WAIT)
    if view.replaced:
        gone = _transient(local, "another pod has taken the place of this one")
        return LauncherStep(LauncherAction.KILL) if local.running else LauncherStep(LauncherAction.EXIT, gone)
    register = view.register
    if register.end is not None:
        return _leave(view, register.end, local, now)
    round_ = register.round
    if local.running and local.running < round_:
        return LauncherStep(LauncherAction.STOP if register.orderly else LauncherAction.KILL)
    if local.failure is not None and local.failure[0] == round_:
        return _propose(next_register(register, local.failure[1]))
    if register.elastic and (step := _resize(view, local)) is not None:
        return step
    if local.running:
        return LauncherStep(LauncherAction.STOP if register.planned is not None else LauncherAction.WAIT)
    if local.well == round_:
        return _finish(view, local, now)
    return _begin(view, local, now)


def _propose(register: Register) -> LauncherStep:
    return LauncherStep(LauncherAction.PROPOSE, register=register)


def _resize(view: StoreView, local: LauncherState) -> LauncherStep | None:
    """What a launcher of an elastic gang does beside the rounds: leave, wait outside, join, or pass on what the
    operator wants.
    """
    register, begun = view.register, view.address is not None
    outside = local.node in register.without
    if local.asked and local.node != 0 and not local.running and local.well != register.round:
        stopped = RoundFailure(code=ExitCode.STOPPED, message="stopped on request", node=local.node)
        return LauncherStep(LauncherAction.EXIT, stopped)
    if outside:
        return LauncherStep(LauncherAction.WAIT_OUTSIDE if local.waits < register.round else LauncherAction.WAIT)
    fresh = local.arrived == register.round and local.acknowledged < register.round
    if local.node != 0 and fresh and (register.round > 1 or begun):
        return _propose(moved(register, begun=begun))
    target = register.without if register.planned is None else register.planned
    if local.wanted is None or local.wanted == target or local.well == register.round:
        return None
    if not view.waiting.issuperset(set(register.without) - set(local.wanted)):
        return None  # those who come are not ready
    return _propose(resized(register, local.wanted, begun=begun))


def _leave(view: StoreView, end: RoundFailure, local: LauncherState, now: float) -> LauncherStep:
    if local.running:
        return LauncherStep(LauncherAction.STOP if end.code == ExitCode.STOPPED else LauncherAction.KILL)
    if not local.seen:
        return LauncherStep(LauncherAction.SHUTDOWN)
    waits = not view.all_left and now - local.since <= SHUTDOWN_S
    if local.node != 0:
        waits = end.code != ExitCode.DONE and end.node != local.node and now - local.since <= CONSEQUENCE_S
    return LauncherStep(LauncherAction.WAIT) if waits else LauncherStep(LauncherAction.EXIT, end)


def _finish(view: StoreView, local: LauncherState, now: float) -> LauncherStep:
    if local.reported < view.register.round:
        return LauncherStep(LauncherAction.REPORT)
    if local.node == 0 and view.done:
        return _propose(next_register(view.register, RoundFailure(code=ExitCode.DONE, message="", node=0)))
    if now - local.since <= DONE_S:
        return LauncherStep(LauncherAction.WAIT)
    text = f"the ranks of another node have not ended {DONE_S:.0f} s after this node's: the gang starts again"
    return _propose(next_register(view.register, _transient(local, text)))


def _begin(view: StoreView, local: LauncherState, now: float) -> LauncherStep:
    round_ = view.register.round
    if local.acknowledged < round_:
        return LauncherStep(LauncherAction.ACKNOWLEDGE)
    if view.address is not None:
        return LauncherStep(LauncherAction.START)
    if local.node == 0 and view.acknowledged and local.announced < round_:
        return LauncherStep(LauncherAction.ANNOUNCE)
    limit = HELD_S if view.register.elastic else FIRST_ROUND_S if round_ == 1 else ACKNOWLEDGE_S
    if now - local.since <= limit:
        return LauncherStep(LauncherAction.WAIT)
    missing = f"not all nodes ended their ranks within {limit:.0f} s" if round_ > 1 else "not all nodes appeared"
    return _propose(next_register(view.register, _transient(local, f"{missing}: the gang starts again")))


def _transient(local: LauncherState, message: str) -> RoundFailure:
    return RoundFailure(code=ExitCode.RETRYABLE, message=message, node=local.node, final=True)
