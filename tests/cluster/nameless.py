"""The operator, for which no name can be resolved while the file that DIHT_TEST_NO_NAMES names exists."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

resolve, away = socket.getaddrinfo, Path(os.environ["DIHT_TEST_NO_NAMES"])


def resolve_or_not(*arguments: Any, **options: Any) -> Any:
    if away.exists():
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    return resolve(*arguments, **options)


socket.getaddrinfo = resolve_or_not
