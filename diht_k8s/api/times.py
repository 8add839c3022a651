"""Times in the `status` of a run, as RFC 3339 text: written exactly, read leniently.

Nobody who may write a status can stop the run's reconciliation by it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, WithJsonSchema

EPOCH: Final = "1970-01-01T00:00:00Z"
TIME_PATTERN: Final = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})$"
_SCHEMA: Final[dict[str, Any]] = {"type": "string", "maxLength": 40, "pattern": TIME_PATTERN}
"""No `format`: an API server takes a list for a string that has one."""


def timestamp(seconds: float) -> str:
    """Seconds since the epoch as Kubernetes writes time (RFC 3339, whole seconds, UTC)."""
    return datetime.fromtimestamp(int(seconds), UTC).isoformat().replace("+00:00", "Z")  # %Y has no leading zeros


def seconds(time: object) -> float | None:
    """A time of a status as seconds since the epoch; None if it is unset or cannot be read."""
    try:
        return datetime.fromisoformat(time).timestamp() if isinstance(time, str) else None
    except (ValueError, OverflowError):
        return None


_Text = Annotated[str, WithJsonSchema(_SCHEMA)]
Time = Annotated[_Text | None, BeforeValidator(lambda time: None if seconds(time) is None else time)]
"""A time that cannot be read counts as unset."""
KnownTime = Annotated[_Text, BeforeValidator(lambda time: EPOCH if seconds(time) is None else time)]
"""A time that is always set; one that cannot be read counts as the epoch."""
