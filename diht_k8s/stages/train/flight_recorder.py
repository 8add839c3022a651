"""A rank's flight recorder: torch's record of collectives, handed to the launcher's watchdog on request to name a hang.

torch's flight recorder keeps the last collectives of each process group (NCCL; gloo too where torch can). A thread of
each rank looks for a request: a file of its node's watchdog, or a key in the gang's store that a rank of another node
has set. Then it leaves its record in both places, and for the watchdog of its node it collects those of all ranks. The
main thread, which hangs, is not needed, and no step pays for it.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any, Final

import torch.distributed as dist
from torch._C import _distributed_c10d as c10d

from diht_k8s.runtime.hangs.awaited_rank import (
    ASK,
    Collective,
    GangRecords,
    GroupRecord,
    RankRecord,
    gather_path,
    gathered_path,
    record_path,
)
from diht_k8s.runtime.hangs.heartbeat import FOLDER_VARIABLE, write_whole

LOOK_S: Final = 0.25
"""Between two looks for the watchdog's file."""
STORE_S: Final = 2.0
"""Between two looks into the store, which serves all ranks."""
GATHER_S: Final = STORE_S + 2.0
"""How long to wait for the records of other nodes."""
STORE_TIMEOUT: Final = timedelta(seconds=5)
HANG: Final = "diht/hang"
"""Key that asks all ranks for their record."""
_NAMES: Final = {"_all_gather_base": "all_gather", "_reduce_scatter_base": "reduce_scatter", "allreduce": "all_reduce"}
"""Backends' names of collectives, where they differ from torch.distributed's."""
_OURS: Final = f"{Path(__file__).parents[2]}{os.sep}"
_EXCHANGES: Final = f"{os.sep}collectives.py"
"""Its frames say less than their callers'."""


class FlightRecorder:
    """The thread of a rank that answers its watchdog. Without DIHT_WATCH in the environment there is none."""

    def __init__(self, rank: int, world: int, *, node: str = "") -> None:
        """Start the thread; the world's process group is initialised.

        Args:
            rank: of this process.
            world: number of processes.
            node: name of its node; empty takes the host's.
        """
        folder = os.environ.get(FOLDER_VARIABLE)
        self._rank, self._world, self._node = rank, world, node or socket.gethostname()
        self._main = threading.main_thread().ident
        self._ended = threading.Event()
        if folder is None or world == 1:
            return
        self._folder = Path(folder)
        shared: Any = dist.distributed_c10d._get_default_store()
        store = shared.clone()  # a connection of its own: the main thread may hang in the other one
        store.set_timeout(STORE_TIMEOUT)
        store.set(_key("node", rank), self._node)
        self._store: dist.Store | None = store
        self._thread = threading.Thread(target=self._answer, name="flight-recorder", daemon=True)
        self._thread.start()
        atexit.register(self._close)

    def _close(self) -> None:
        """End the thread: one that is in the store while Python ends would abort the process."""
        self._ended.set()
        self._thread.join()

    def _answer(self) -> None:
        """Answer the first request of either kind, and gather when asked."""
        asked, look_at = False, 0.0
        while not self._ended.wait(LOOK_S):
            mine = (self._folder / ASK).exists()
            if not asked and not mine and time.monotonic() >= look_at:
                look_at = time.monotonic() + STORE_S
                asked = self._answer_store(only_if_asked=True)
            if not asked and mine:
                asked = True
                self._answer_store(only_if_asked=False)
                with contextlib.suppress(OSError):  # a full disk: the store has it
                    write_whole(record_path(self._folder, self._rank), self._record().model_dump_json())
            if mine and gather_path(self._folder, self._rank).exists():
                if (gathered := self._gathered()) is not None:
                    write_whole(gathered_path(self._folder, self._rank), gathered.model_dump_json())
                return

    def _answer_store(self, *, only_if_asked: bool) -> bool:
        """Leave this rank's record in the store, and ask the others; whether it did."""
        if self._store is None:
            return False
        try:
            if only_if_asked and not self._store.check([HANG]):
                return False
            self._store.set(_key("record", self._rank), self._record().model_dump_json())
            self._store.set(HANG, "1")
        except RuntimeError:  # its server has gone: rank 0's launcher has ended
            self._store = None
        return self._store is not None

    def _gathered(self) -> GangRecords | None:
        """The records of all ranks that answer in time; None without the store."""
        store, ranks = self._store, range(self._world)
        if store is None:
            return None
        try:
            deadline = time.monotonic() + GATHER_S
            while not store.check([_key("record", rank) for rank in ranks]) and time.monotonic() < deadline:
                time.sleep(LOOK_S)
            there = [rank for rank in ranks if store.check([_key("record", rank)])]
            records = [RankRecord.model_validate_json(store.get(_key("record", rank))) for rank in there]
            nodes = {rank: store.get(_key("node", rank)).decode() for rank in ranks}
        except RuntimeError:
            return None
        return GangRecords(records=records, nodes=nodes)

    def _record(self) -> RankRecord:
        doing = innermost_frame(sys._current_frames().get(self._main or 0))
        return RankRecord(rank=self._rank, node=self._node, doing=doing, groups=recorded())


def recorded() -> dict[str, GroupRecord]:
    """The records of this process's flight recorders; none where torch has no recorder."""
    found: dict[str, GroupRecord] = {}
    for name in ("_dump_fr_trace_json", "_dump_nccl_trace_json"):
        dump = getattr(c10d, name, None)
        if dump is not None:
            found |= groups_of(json.loads(dump(includeCollectives=True, onlyActive=False)).get("entries") or [])
    return found


def groups_of(entries: Iterable[Mapping[str, Any]]) -> dict[str, GroupRecord]:
    """A flight recorder's entries by process group. Pure.

    Args:
        entries: oldest first, as torch writes them; point-to-point exchanges are left out.
    """
    found: dict[str, GroupRecord] = {}
    for entry in entries:
        if entry["is_p2p"]:
            continue
        backend, _, kind = str(entry["profiling_name"]).partition(":")
        each = Collective(sequence=int(entry["collective_seq_id"]), name=_NAMES.get(kind, kind))
        name = f"{backend}:{entry['process_group'][0]}"
        known = found.get(name, GroupRecord(issued=0))
        ended = entry["retired"] or entry["state"] == "completed"
        pending = known.pending if known.pending is not None or ended else each
        found[name] = GroupRecord(issued=max(known.issued, each.sequence), pending=pending)
    return found


def innermost_frame(frame: FrameType | None) -> str:
    """The innermost frame of this project's code, as `engine.py:310 in step`; empty without one."""
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(_OURS) and not code.co_filename.endswith(_EXCHANGES):
            return f"{Path(code.co_filename).name}:{frame.f_lineno} in {code.co_name}"
        frame = frame.f_back
    return ""


def _key(kind: str, rank: int) -> str:
    return f"diht/{kind}/{rank}"
