"""The rounds of a gang: how its launchers agree that their ranks end and start again, or that all is over. Pure.

One register holds the round and, once no further round begins, the end. It moves by compare-and-set alone, so of several
launchers that report failures of a round one decides. Every launcher then ends and reaps its ranks and acknowledges the
new round. Only when all have, launcher 0 announces where its ranks meet; so while any process of an older round lives, no
newer round begins. Whatever keeps a launcher from acknowledging ends the gang, which is then created again.

`decide` looks at what is known and says what to do next, as `pipeline.plan` does for runs: nothing depends on having
seen an event.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pydantic import BaseModel, ConfigDict

from diht_k8s.api.errors import NEVER_RETRIED, ExitCode

UNREACHABLE_S: Final = 10.0
"""A control store that has not answered for this long is lost, and launcher 0 with it."""
ACKNOWLEDGE_S: Final = 30.0
"""Time for all launchers to end their ranks and acknowledge a round."""
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


class Register(BaseModel):
    """The state on which all launchers agree."""

    model_config = ConfigDict(frozen=True)

    round: int = 1
    stalled: int = 0
    """failures in a row without progress."""
    failed_at: int = 0
    """furthest step at which a round failed."""
    newest: RoundFailure | None = None
    """why the newest round began; None in the first."""
    end: RoundFailure | None = None
    """why no further round begins (code 0: all ranks are done); None while one may."""


def next_register(register: Register, failure: RoundFailure) -> Register:
    """The register after a failure of its round: the next round, or the end.

    Nothing counts as progress before the step at which a round failed is committed (as in `pipeline.budget`), so
    failing at the same step over and over ends the gang.
    """
    if register.end is not None:
        return register
    step = failure.step if failure.step is not None else failure.committed + 1
    progress = failure.committed >= register.failed_at
    stalled = 1 if progress else register.stalled + 1
    known = {"failed_at": max(register.failed_at, step), "stalled": stalled}
    if failure.final or failure.code in (*NEVER_RETRIED, ExitCode.DONE, ExitCode.STOPPED):
        return register.model_copy(update={**known, "end": failure})
    if stalled > MAX_STALLED:
        text = f"{failure.message} (failed {stalled} times in a row before step {known['failed_at']} was saved)"
        end = failure.model_copy(update={"code": int(ExitCode.RETRYABLE), "message": text})
        return register.model_copy(update={**known, "end": end})
    return register.model_copy(update={**known, "round": register.round + 1, "newest": failure})


@dataclass(frozen=True)
class StoreView:
    """The control store as a launcher last read it; all but the register is about the register's round."""

    register: Register
    acknowledged: bool = False
    """whether all launchers have ended the ranks of earlier rounds."""
    address: str | None = None
    """at which the ranks meet; None until all have acknowledged."""
    done: bool = False
    """whether the ranks of all launchers have ended well."""
    all_left: bool = False
    """whether all other launchers have seen the end."""


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
    seen: bool = False
    """whether this launcher has told that it saw the end."""
    since: float = 0.0
    """when it first saw the register as it is, or since then reported that its ranks had ended well."""


class LauncherAction(StrEnum):
    """The actions of a launcher."""

    WAIT = "wait"
    KILL = "kill"
    """end the ranks and reap them."""
    STOP = "stop"
    """ask the ranks to end, since all others do; reap them."""
    ACKNOWLEDGE = "acknowledge"
    ANNOUNCE = "announce"
    """publish the address at which the ranks of this round meet."""
    START = "start"
    """start this node's ranks."""
    PROPOSE = "propose"
    """compare-and-set the register to what follows from `failure`."""
    REPORT = "report"
    """tell that this node's ranks have ended well."""
    SHUTDOWN = "shutdown"
    """tell that this launcher has seen the end."""
    EXIT = "exit"


@dataclass(frozen=True)
class LauncherStep:
    """The next action of a launcher."""

    action: LauncherAction
    failure: RoundFailure | None = None
    """to propose, or to exit with."""


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
    if view.register.end is not None:
        return _leave(view, view.register.end, local, now)
    round_ = view.register.round
    if local.running and local.running < round_:
        return LauncherStep(LauncherAction.KILL)
    if local.failure is not None and local.failure[0] == round_:
        return LauncherStep(LauncherAction.PROPOSE, local.failure[1])
    if local.running:
        return LauncherStep(LauncherAction.WAIT)
    if local.well == round_:
        return _finish(view, local, now)
    return _begin(view, local, now)


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
        return LauncherStep(LauncherAction.PROPOSE, RoundFailure(code=ExitCode.DONE, message="", node=0))
    if now - local.since <= DONE_S:
        return LauncherStep(LauncherAction.WAIT)
    text = f"the ranks of another node have not ended {DONE_S:.0f} s after this node's: the gang starts again"
    return LauncherStep(LauncherAction.PROPOSE, _transient(local, text))


def _begin(view: StoreView, local: LauncherState, now: float) -> LauncherStep:
    round_ = view.register.round
    if local.acknowledged < round_:
        return LauncherStep(LauncherAction.ACKNOWLEDGE)
    if view.address is not None:
        return LauncherStep(LauncherAction.START)
    if local.node == 0 and view.acknowledged and local.announced < round_:
        return LauncherStep(LauncherAction.ANNOUNCE)
    limit = FIRST_ROUND_S if round_ == 1 else ACKNOWLEDGE_S
    if now - local.since <= limit:
        return LauncherStep(LauncherAction.WAIT)
    missing = f"not all nodes ended their ranks within {limit:.0f} s" if round_ > 1 else "not all nodes appeared"
    return LauncherStep(LauncherAction.PROPOSE, _transient(local, f"{missing}: the gang starts again"))


def _transient(local: LauncherState, message: str) -> RoundFailure:
    return RoundFailure(code=ExitCode.RETRYABLE, message=message, node=local.node, final=True)
