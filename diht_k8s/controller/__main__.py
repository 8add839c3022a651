"""`python -m diht_k8s.controller`: the operator. Its credentials come from the pod or from KUBECONFIG."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import sys
from collections.abc import Sequence
from typing import Final

from diht_k8s.api.errors import ExitCode, missing_package

try:
    from pythonjsonlogger.json import JsonFormatter

    from diht_k8s.controller.cache.watch import WATCH_S
    from diht_k8s.controller.node_health.faults import WatchedFault, parse_watched_faults
    from diht_k8s.controller.operator import Operator, Settings
except ImportError as missing:
    print(f"diht: {missing_package(missing, 'operator')}", file=sys.stderr)
    sys.exit(ExitCode.USER_ERROR)

MOST_WATCH_S: Final = 120
"""A longer silence would look like a stuck watch to /healthz."""
GC_THRESHOLD: Final = 50_000
"""New containers between two collections. With Python's default of 700, a list of 10,000 pods takes twice the time to
read, all of it in collections that find nothing."""
LEAST_JOB_TTL_S: Final = 600
"""The operator learns from a finished Job and its pods how a stage ended: they must outlive its restart."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the operator until a signal ends it."""
    options = _parser().parse_args(arguments)
    _log(options.log_format, options.log_level)
    lease_namespace = options.lease_namespace or os.environ.get("POD_NAMESPACE")
    settings = Settings(
        namespace=options.namespace,
        workers=options.workers,
        address=options.address,
        port=options.port,
        lease_namespace=None if options.no_lease else lease_namespace,
        lease_name=options.lease_name,
        job_ttl_s=options.job_ttl or None,
        run_ttl_s=options.run_ttl or None,
        watch_s=options.watch_timeout,
        kueue=options.kueue == "auto",
        node_faults=options.node_faults,
        pod_groups=options.pod_groups == "auto",
        history_limit=options.history_limit or None,
    )
    gc.freeze()  # what was imported stays
    gc.set_threshold(GC_THRESHOLD)
    Operator(settings).run()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m diht_k8s.controller", description="The operator of DihtRuns.")
    parser.add_argument("--namespace", help="serve this namespace only; all if unset")
    parser.add_argument("--workers", type=int, default=2, help="runs reconciled at the same time (2)")
    parser.add_argument("--address", default="", help="address of the pages below; all if unset")
    parser.add_argument(
        "--port", type=int, default=8080, help="port of /healthz, /readyz and /metrics (8080); 0 for none"
    )
    parser.add_argument("--lease-namespace", help="namespace of the Lease; POD_NAMESPACE if unset, else no Lease")
    parser.add_argument("--lease-name", default="diht-operator", help="name of the Lease (diht-operator)")
    parser.add_argument("--no-lease", action="store_true", help="act at once, without an election")
    parser.add_argument(
        "--job-ttl",
        type=_job_ttl,
        default=86_400,
        help=f"seconds for which finished Jobs and their pods stay (86400), {LEAST_JOB_TTL_S} or more; 0 for ever",
    )
    parser.add_argument(
        "--run-ttl",
        type=int,
        default=0,
        help="seconds for which a finished run without a time of its own stays; 0 for ever",
    )
    parser.add_argument(
        "--history-limit", type=int, default=0, help="number of finished runs that a namespace keeps; 0 keeps all"
    )
    parser.add_argument(
        "--watch-timeout",
        type=int,
        default=WATCH_S,
        choices=range(1, MOST_WATCH_S + 1),
        metavar="SECONDS",
        help=f"seconds after which a watch is renewed, 1 to {MOST_WATCH_S} ({WATCH_S}); one that is silent for a fifth "
        "longer is given up: less where something between operator and API server drops idle connections",
    )
    parser.add_argument(
        "--kueue",
        choices=("auto", "never"),
        default="auto",
        help="give stages places of their own in Kueue's queues where it is installed (auto), or never",
    )
    parser.add_argument(
        "--node-faults",
        type=_node_faults,
        default=(),
        metavar="JSON",
        help=(
            'taints and conditions of nodes that gangs move away from: [{"condition": NAME}, {"taint": KEY, '
            '"move": "AtOnce"}]'
        ),
    )
    parser.add_argument(
        "--pod-groups",
        choices=("auto", "never"),
        default="auto",
        help="let Kubernetes schedule gangs by PodGroups where the cluster serves them (auto), or never",
    )
    parser.add_argument("--log-format", choices=("json", "text"), default="json")
    parser.add_argument("--log-level", choices=("debug", "info", "warning"), default="info")
    return parser


def _job_ttl(text: str) -> int:
    value = int(text)
    if value != 0 and value < LEAST_JOB_TTL_S:
        raise argparse.ArgumentTypeError(
            f"{value} s is too short for the operator to read how a stage ended: "
            f"give {LEAST_JOB_TTL_S} or more, or 0 to keep Jobs for ever"
        )
    return value


def _node_faults(text: str) -> tuple[WatchedFault, ...]:
    try:
        return parse_watched_faults(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _log(form: str, level: str) -> None:
    handler = logging.StreamHandler()
    fields = "%(asctime)s %(levelname)s %(name)s %(message)s"
    handler.setFormatter(JsonFormatter(fields) if form == "json" else logging.Formatter(fields))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("urllib3").setLevel(logging.ERROR)


if __name__ == "__main__":
    main()
