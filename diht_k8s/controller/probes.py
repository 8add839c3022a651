"""Pages for probes and Prometheus: /healthz, /readyz and /metrics; and the watch that only a restart can help.

Only a watch that has died without an error fails /healthz. An API server that does not answer does not: the watches see
the errors and try again, and a restart would not bring the server back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import make_wsgi_app

STALE_S: Final = 220.0
"""A watch ends by itself each minute, and its errors count as signs of life: after this time its thread is stuck."""
Check = Callable[[], str]
"""What is wrong; empty when nothing is."""


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """No line for each probe."""


def serve(address: str, port: int, healthy: Check, ready: Check, role: Callable[[], str] = lambda: "") -> None:
    """Serve /healthz, /readyz and /metrics from a thread; `role` says what a healthy replica does."""
    metrics = make_wsgi_app()
    checks = {"/healthz": healthy, "/readyz": ready}

    def application(environ: dict[str, Any], respond: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return metrics(environ, respond)
        if path not in checks:
            respond("404 Not Found", [("Content-Type", "text/plain")])
            return [b"try /healthz, /readyz, /metrics\n"]
        problem = checks[path]()
        respond("503 Service Unavailable" if problem else "200 OK", [("Content-Type", "text/plain")])
        return [f"{problem or role() or 'ok'}\n".encode()]

    server = make_server(address, port, application, handler_class=_Quiet)
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()


def stuck_watch(alive_at: Mapping[str, float], now: float) -> str:
    """Which of our watches is stuck.

    Args:
        alive_at: kind -> when its thread last got somewhere, seconds, monotonic.
        now: seconds on the same clock.

    Returns:
        One line; empty if none is stuck.
    """
    silent = {kind: now - at for kind, at in alive_at.items() if now > at + STALE_S}
    return next((f"the watch of {kind} has been silent for {since:.0f} s" for kind, since in silent.items()), "")
