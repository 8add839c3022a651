"""The rows whose image did not come in a retry, as JSON lines that another retry reads."""

from __future__ import annotations

import json

from diht_k8s.data.imports.failed_rows import CAPTION, FAILED, MESSAGE, STATUS
from diht_k8s.data.imports.records import ImageRecord


class RejectList:
    """Gathers the rows of one shard."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, record: ImageRecord, reason: str) -> None:
        """Note a row; one without a URL or caption would fail again and is not noted."""
        if record.problem is None and record.captions:
            row = {**record.columns, CAPTION: record.captions[0], STATUS: FAILED, MESSAGE: reason}
            self._lines.append(json.dumps(row, sort_keys=True) + "\n")

    def take(self) -> bytes:
        """The lines since the last call."""
        lines, self._lines = self._lines, []
        return "".join(lines).encode()
