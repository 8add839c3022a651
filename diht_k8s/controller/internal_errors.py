"""Unexpected exceptions in a reconciliation: a log line with the traceback, without literal values of the run."""

from __future__ import annotations

import logging
import traceback

from diht_k8s.api.redaction import literals, redacted_text
from diht_k8s.controller.mirror.runs import KnownRun
from diht_k8s.controller.text import one_line

logger = logging.getLogger(__name__)


class InternalError(Exception):
    """A reconciliation failed in a way that nobody expected; it is logged and the run's status says so."""


def log_internal_error(known: KnownRun, error: Exception) -> str:
    """Log the exception with its traceback; returns its message with the place where it was raised."""
    secrets = literals(known.document)
    where = traceback.extract_tb(error.__traceback__)[-1]
    message = redacted_text(f"{type(error).__name__}: {error} ({where.name}, line {where.lineno})", secrets)
    logger.error(
        "%s/%s: unexpected error: %s\n%s", *known.key, one_line(message),
        redacted_text("".join(traceback.format_exception(error)), secrets),
        extra={"run": known.name, "namespace": known.namespace},
    )  # fmt: skip
    return message
