"""The arguments of the commands that work on a cluster; what they need is imported when one is called."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

Commands = Any
"""argparse's object to which commands are added; its type has no public name."""


def add_cluster_commands(commands: Commands, add_set: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add submit, watch, logs, why, plan, retry and cancel."""
    _add(commands, "submit", "send a run to the cluster, or change it there", _submit, file=True, add_set=add_set)
    commands.choices["submit"].add_argument("--dry-run", action="store_true", help="only ask the cluster whether it takes it")  # fmt: skip
    _add(commands, "watch", "follow a run until it has ended", _watch)
    _add(commands, "logs", "print the logs of a stage's newest attempt", _logs)
    logs = commands.choices["logs"]
    logs.add_argument(
        "stage", nargs="?", metavar="STAGE", help="filter, label, train, evaluate, or a step: label-heads"
    )
    logs.add_argument("-f", "--follow", action="store_true", help="stay and print what comes (of the first pod)")
    logs.add_argument("--tail", type=int, metavar="LINES", help="only the last lines")
    _add(commands, "why", "say in one sentence what a run does, or why it does not", _why)
    _add(commands, "plan", "print every object that a run would make, without a cluster", _plan, file=True, add_set=add_set)  # fmt: skip
    _add(commands, "retry", "go on with a run that failed", _retry)
    _add(commands, "cancel", "delete a run; what it finished stays", _cancel)


def _add(
    commands: Commands,
    name: str,
    says: str,
    command: Callable[[argparse.Namespace], int],
    *,
    file: bool = False,
    add_set: Callable[[argparse.ArgumentParser], None] | None = None,
) -> None:
    parser = commands.add_parser(name, help=says, description=f"{says[0].upper()}{says[1:]}.")
    if file:
        parser.add_argument("file", metavar="FILE", help="the run document (YAML or JSON)")
    else:
        parser.add_argument("name", metavar="NAME", help="name of the run")
    parser.add_argument("-n", "--namespace", metavar="NAMESPACE", help="that of the current context if unset")
    if add_set is not None:
        add_set(parser)
    parser.set_defaults(command=command)


def _submit(options: argparse.Namespace) -> int:
    from diht_k8s.cli import remote

    return remote.guarded(
        lambda: remote.submit(options.file, options.overrides, options.namespace, dry_run=options.dry_run)
    )


def _watch(options: argparse.Namespace) -> int:
    from diht_k8s.cli import remote, watching

    return remote.guarded(lambda: watching.watch(options.name, options.namespace))


def _logs(options: argparse.Namespace) -> int:
    from diht_k8s.cli import remote

    return remote.guarded(
        lambda: remote.logs(options.name, options.stage, options.namespace, follow=options.follow, lines=options.tail)
    )


def _why(options: argparse.Namespace) -> int:
    from diht_k8s.cli import remote

    return remote.guarded(lambda: remote.why(options.name, options.namespace))


def _plan(options: argparse.Namespace) -> int:
    from diht_k8s.cli import remote

    return remote.guarded(lambda: remote.plan(options.file, options.overrides, options.namespace))


def _retry(options: argparse.Namespace) -> int:
    from diht_k8s.cli import remote

    return remote.guarded(lambda: remote.retry(options.name, options.namespace))


def _cancel(options: argparse.Namespace) -> int:
    from diht_k8s.cli import remote

    return remote.guarded(lambda: remote.cancel(options.name, options.namespace))
