"""What a node of a gang makes sure of before it starts its ranks: the others' names are known.

A pod can start before the cluster's DNS knows its peers. Ranks that look too early fail with an error that names a host and a port
of torch's, minutes later; this waits, and says which pod is missing.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from typing import Final

from diht_k8s.api.errors import RetryableError
from diht_k8s.recipe.runtime.signals import StopFlag

DNS_TIMEOUT_S: Final = 60.0
"""A pod has a name as soon as it has an address; one that has none after a minute is not coming soon."""
DNS_INTERVAL_S: Final = 0.5


def peer_hosts(pattern: str, nodes: int) -> list[str]:
    """The host names of a gang from `NAME-*.SERVICE`, the star standing for the index; none without a pattern."""
    return [pattern.replace("*", str(index)) for index in range(nodes)] if pattern else []


def resolves(host: str) -> bool:
    """Whether DNS knows a host."""
    try:
        socket.getaddrinfo(host, None)
    except socket.gaierror:
        return False
    return True


def wait_for_hosts(
    hosts: Sequence[str],
    *,
    stop: StopFlag,
    timeout_s: float = DNS_TIMEOUT_S,
    known: Callable[[str], bool] = resolves,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until DNS knows all hosts.

    Args:
        hosts: names of pods.
        stop: ends the waiting.
        timeout_s: how long to wait for all of them together.
        known: whether DNS knows a host.
        clock: seconds that only grow.
        sleep: waits that many seconds.

    Raises:
        RetryableError: a host is still unknown; the message names it.
        StopRequested: a signal came.
    """
    deadline = clock() + timeout_s
    missing = [host for host in hosts if not known(host)]
    while missing:
        stop.raise_if_requested("nothing had begun")
        if clock() >= deadline:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise RetryableError(
                f"no address for pod {missing[0].partition('.')[0]}{more} after {timeout_s:.0f} s ({missing[0]}): "
                "see whether it was scheduled; the gang starts again"
            )
        sleep(DNS_INTERVAL_S)
        missing = [host for host in missing if not known(host)]
