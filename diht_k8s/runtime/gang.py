"""The shape of a gang of ranks, from the environment of its pods."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from diht_k8s.api.gang_decision import DECISION_VARIABLE
from diht_k8s.api.pods import RENDEZVOUS_PORT


@dataclass(frozen=True)
class Gang:
    """The shape of a gang and this node's place in it."""

    nodes: int = 1
    processes: int = 1
    node_rank: int = 0
    master: str = ""
    """host name of node 0; empty on a single node."""
    port: int = RENDEZVOUS_PORT
    hosts: tuple[str, ...] = ()
    """host names of all nodes, where a cluster gives them names."""
    decision: Path | None = None
    """file that names the nodes without which the gang goes on in its living pods; None where it cannot."""

    @staticmethod
    def from_environment(processes: int) -> Gang:
        """The gang that DIHT_NUM_NODES, DIHT_NODE_RANK and DIHT_MASTER describe; one node without them."""
        nodes = int(os.environ.get("DIHT_NUM_NODES", "1"))
        return Gang(
            nodes=nodes,
            processes=int(os.environ.get("DIHT_PROCESSES", str(processes))),
            node_rank=int(os.environ.get("DIHT_NODE_RANK", "0")),
            master=os.environ.get("DIHT_MASTER", ""),
            port=int(os.environ.get("DIHT_MASTER_PORT", str(RENDEZVOUS_PORT))),
            hosts=tuple(peer_hosts(os.environ.get("DIHT_PEER_HOSTS", ""), nodes)),
            decision=Path(decision) if (decision := os.environ.get(DECISION_VARIABLE)) else None,
        )


def peer_hosts(pattern: str, nodes: int) -> list[str]:
    """The host names of a gang from `NAME-*.SERVICE`, the star standing for the index; none without a pattern."""
    return [pattern.replace("*", str(index)) for index in range(nodes)] if pattern else []
