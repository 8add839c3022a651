"""Sharing of a stage's shards among its workers, to the commit.

A worker takes shards as long as there are any that are neither done nor another's (see `runtime.claims`). Then one
worker ends the stage, and the others wait for its marker: a worker succeeds only once the stage is committed, so one
that has succeeded tells that no other is needed.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

from diht_k8s.runtime.claims import BEAT_SECONDS, Claims
from diht_k8s.runtime.stage import Context, Outcome

END: Final = "end of the stage"
"""Name of the claim on the end of the stage, so that only one worker reads all that the others wrote."""


def claims_of(context: Context) -> Claims:
    """This worker's claims on shards of its stage."""
    return Claims(context.storage, context.layout.stage(context.stage), context.owner, context.worker)


def until_committed(
    context: Context,
    claims: Claims,
    take: Callable[[], tuple[bool, int]],
    end: Callable[[], Outcome | None],
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> Outcome | None:
    """Work until the stage is committed.

    Args:
        context: the stage's context.
        claims: of this worker.
        take: works on what is free; returns whether there was anything, and how many shards are not done.
        end: once all are done, makes the outcome; None if it finds one that is not, which `take` works on next.
        sleep: waits for seconds.

    Returns:
        The outcome in the worker that ends the stage, None in the others.
    """
    while not context.storage.exists(context.layout.committed(context.stage)):
        worked, waiting = take()
        if not worked and not waiting and claims.take(END, counts_deaths=False):
            if (outcome := _ended(claims, end)) is not None:
                return outcome
        elif not worked:
            context.stop.raise_if_requested("finished shards are kept")
            sleep(min(max(1, waiting), BEAT_SECONDS))  # about one request per second
    return None


def once(
    context: Context,
    name: str,
    is_done: Callable[[], bool],
    work: Callable[[], None],
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Have something done by one worker of all runs that share the folder, and wait for it.

    Args:
        context: the stage's context.
        name: of the claim.
        is_done: whether it is done.
        work: does it.
        sleep: waits for seconds.
    """
    claims = claims_of(context)
    while not is_done():
        if claims.take(name, counts_deaths=False):
            try:
                with beating(claims.keep):
                    work()
            finally:
                claims.give_up(name)
        else:
            context.stop.raise_if_requested()
            sleep(1.0)


def _ended(claims: Claims, end: Callable[[], Outcome | None]) -> Outcome | None:
    """The outcome; without one the claim on the end is another's to take."""
    outcome = None
    try:
        with beating(claims.keep):
            outcome = end()
    finally:
        if outcome is None:
            claims.give_up(END)
    claims.clear(END)
    return outcome


@contextlib.contextmanager
def beating(keep: Callable[[], None]) -> Iterator[None]:
    """Call `keep` from time to time: what is computed may take longer than a claim or a lease may stand still."""
    stopped = threading.Event()

    def beat() -> None:
        while not stopped.wait(BEAT_SECONDS):
            with contextlib.suppress(Exception):  # the work itself meets the same storage and reports it
                keep()

    thread = threading.Thread(target=beat, name="beats", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
