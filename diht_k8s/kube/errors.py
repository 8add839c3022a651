"""Errors of calls to the API server that it refuses or does not answer: what failed, why, and what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from diht_k8s.api.errors import DihtError, ExitCode, RetryableError, UserError, in_one_line

MOST_RETRY_AFTER_S: Final = 60.0
"""A server that asks for more is asked again after this time all the same: nobody may silence an operator for hours."""
MAX_TEXT: Final = 1000
"""Characters of an answer that is not JSON, or of a transport error, that a message keeps."""
_ADVICE: Final = {
    0: "check that the cluster runs and KUBECONFIG names it",
    400: "correct what the message names",
    401: "check the kubeconfig's credentials",
    403: "ask for the right, or use another namespace",
    404: "check the name and the namespace",
    409: "use another name, or delete the object",
    422: "correct what the message names",
}
_UNKNOWN_KIND: Final = ("404 page not found", "the server could not find the requested resource")
"""Messages about a kind that is not served: of the API server itself, and of servers of aggregated APIs."""


class ClusterError(DihtError):
    """A call that the API server refused or did not answer.

    As text it is one sentence for a person; `status`, `reason` and `message` are the API server's own. It is no
    `UserError`, which the controller takes for a mistake in the run document.
    """

    exit_code = ExitCode.USER_ERROR

    def __init__(
        self, status: int, reason: str, message: str, sentence: str = "", *, retry_after_s: float = 0.0
    ) -> None:
        """Make one.

        Args:
            status: HTTP status; 0 if no answer came.
            reason: Kubernetes' reason, for example `AlreadyExists`.
            message: Kubernetes' message.
            sentence: what failed, why, and what to do; empty takes the message.
            retry_after_s: seconds for which the server wants to be left alone; 0 if it did not say.
        """
        super().__init__(sentence or message)
        self.retry_after_s = retry_after_s
        self.status, self.reason, self.message = status, reason, message

    @property
    def is_not_found(self) -> bool:
        """Whether the object does not exist."""
        return self.status == 404

    @property
    def is_conflict(self) -> bool:
        """Whether the object has changed, was replaced by another one, or exists already."""
        return self.status == 409

    @property
    def is_terminating(self) -> bool:
        """Whether the namespace is being deleted: no more objects can be created in it."""
        return self.status == 403 and "being terminated" in self.message

    @property
    def is_unknown_kind(self) -> bool:
        """Whether the cluster does not serve this kind of object."""
        return self.is_not_found and any(words in self.message for words in _UNKNOWN_KIND)


class UnavailableError(ClusterError, RetryableError):
    """The API server is overloaded, failing or out of reach: the same call may succeed later."""

    exit_code = ExitCode.RETRYABLE


def refused(what: str, status: int, reason: str | None, body: Any, retry_after: str | None = None) -> ClusterError:
    """The error for an answer.

    Args:
        what: what failed: `create Job a in namespace n`.
        status: HTTP status; 0 if no answer came.
        reason: reason of the HTTP answer, used if the body has none.
        body: a Kubernetes `Status` as JSON, or anything else that a proxy may send.
        retry_after: the answer's header `Retry-After`, which Kubernetes gives in seconds.
    """
    try:
        document = json.loads(body)
        reason, message = document.get("reason", reason), document.get("message", "")
    except (TypeError, ValueError, AttributeError):
        message = in_one_line(body or reason, MAX_TEXT)
    temporary = status == 429 or status >= 500 or not status
    advice = _ADVICE.get(status, "try again" if temporary else "correct the request")
    if "is waiting to start" in message:
        advice = "try again when it has started"
    kind = UnavailableError if temporary else ClusterError
    sentence = f"cannot {what}: {message or reason}: {advice}"
    return kind(status, reason or "", message, sentence, retry_after_s=_retry_after(retry_after))


def _retry_after(header: str | None) -> float:
    try:
        return min(max(0.0, float(header or 0)), MOST_RETRY_AFTER_S)
    except ValueError:  # a date, which only something between us and the API server would send
        return 0.0


def unreachable(what: str, error: Exception) -> ClusterError:
    """The error for an answer that did not come, or that broke off."""
    cause = getattr(error, "reason", None) or error
    detail = in_one_line(f"{type(cause).__name__}: {cause}", MAX_TEXT)
    return refused(what, 0, "Unreachable", f"no answer from the API server ({detail})")


@contextmanager
def ignore_not_found() -> Iterator[None]:
    """Ignore that an object does not exist."""
    try:
        yield
    except ClusterError as error:
        if not error.is_not_found:
            raise


@contextmanager
def kubeconfig_errors() -> Iterator[None]:
    """Turn whatever the client library raises over a kubeconfig into one line.

    Raises:
        UserError: there is no cluster, or the kubeconfig is unreadable.
    """
    from kubernetes.config import ConfigException

    try:
        yield
    except ConfigException as error:
        raise UserError(f"no cluster: {error}: set KUBECONFIG") from error
    except Exception as error:  # the client checks little: an invalid file can fail in any way
        detail = in_one_line(error)
        raise UserError(f"cannot read the kubeconfig ({type(error).__name__}: {detail}): check KUBECONFIG") from error
