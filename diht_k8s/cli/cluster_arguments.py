"""Arguments of the commands on runs of a cluster. Imports nothing heavy: `diht --help` must answer at once."""

from __future__ import annotations

import argparse

from diht_k8s.cli.arguments import FILE, Command, Commands, add_set


def add_cluster_commands(commands: Commands) -> None:
    """Add the commands on a cluster's runs."""
    submit = _add_for_file(commands, "submit", "send a run to the cluster, or change it there", _submit)
    submit.add_argument("--dry-run", action="store_true", help="only ask the cluster whether it accepts the run")
    _add_for_name(commands, "watch", "follow a run until it has ended", _watch)
    status = _add_for_place(commands, "status", "say how a run stands, on this machine or on a cluster", _status)
    status.add_argument("--json", action="store_true", help="print one JSON object")
    _add_list(commands)
    logs = _add_for_place(commands, "logs", "print the logs of a stage's newest attempt", _logs)
    logs.add_argument(
        "stage", nargs="?", metavar="STAGE", help="filter, label, train, evaluate, or a step: label-heads"
    )
    logs.add_argument("-f", "--follow", action="store_true", help="keep printing new lines (of the first pod)")
    logs.add_argument("--tail", type=int, metavar="LINES", help="only the last lines")
    why = _add_for_name(commands, "why", "say in one sentence what a run does, or why it does not", _why)
    why.add_argument("--json", action="store_true", help="print the status as one JSON object")
    plan = _add_for_file(commands, "plan", "print every object that a run would create, without a cluster", _plan)
    plan.add_argument("--gpu", metavar="NAME", help="also estimate the training on this GPU (see diht estimate)")
    plan.add_argument("--image", metavar="IMAGE", help="image of the recipe, in place of pods.image of the document")
    plan.add_argument("--show-secrets", action="store_true", help="print literal values of pods.env too")
    _add_for_name(commands, "retry", "resume a run that failed", _retry)
    _add_for_name(commands, "cancel", "delete a run; what it finished stays", _cancel)


def _add_for_place(commands: Commands, name: str, says: str, command: Command) -> argparse.ArgumentParser:
    """A command on a run of this machine or of the cluster."""
    parser = commands.add_parser(name, help=says, description=f"{says[0].upper()}{says[1:]}.")
    parser.add_argument(
        "name", metavar="RUN", help="a run document or output folder of this machine, else the NAME of a cluster's run"
    )
    return _finish(parser, command)


def _add_list(commands: Commands) -> None:
    parser = commands.add_parser("list", help="list the runs of this machine, or of a cluster")
    parser.description = (
        "List the runs below a folder of this machine; with --namespace those of a cluster's namespace."
    )
    parser.add_argument(
        "folder", metavar="FOLDER", nargs="?", default="runs", help="where runs write their output (runs)"
    )
    parser.add_argument("-n", "--namespace", metavar="NAMESPACE", help="list the cluster's runs there")
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    parser.set_defaults(command=_list, extra="operator")


def _add_for_name(commands: Commands, name: str, says: str, command: Command) -> argparse.ArgumentParser:
    """A command on a run that the cluster has."""
    parser = commands.add_parser(name, help=says, description=f"{says[0].upper()}{says[1:]}.")
    parser.add_argument("name", metavar="NAME", help="name of the run")
    return _finish(parser, command)


def _add_for_file(commands: Commands, name: str, says: str, command: Command) -> argparse.ArgumentParser:
    """A command on a run document."""
    parser = commands.add_parser(name, help=says, description=f"{says[0].upper()}{says[1:]}.")
    parser.add_argument("file", metavar="FILE", help=FILE)
    add_set(parser)
    return _finish(parser, command)


def _finish(parser: argparse.ArgumentParser, command: Command) -> argparse.ArgumentParser:
    parser.add_argument("-n", "--namespace", metavar="NAMESPACE", help="that of the current context if unset")
    parser.set_defaults(command=command, extra="operator")
    return parser


def _submit(options: argparse.Namespace) -> int:
    from diht_k8s.cli import cluster

    return cluster.submit(options.file, options.overrides, options.namespace, dry_run=options.dry_run)


def _watch(options: argparse.Namespace) -> int:
    from diht_k8s.cli.watch import watch

    return watch(options.name, options.namespace)


def _status(options: argparse.Namespace) -> int:
    from diht_k8s.cli import local_runs

    if (output := local_runs.local_output(options.name)) is not None:
        return local_runs.status_command(output, as_json=options.json)
    from diht_k8s.cli import cluster

    return cluster.why(options.name, options.namespace, as_json=options.json)


def _list(options: argparse.Namespace) -> int:
    if options.namespace is not None:
        from diht_k8s.cli import cluster

        return cluster.list_runs(options.namespace, as_json=options.json)
    from diht_k8s.cli import local_runs

    return local_runs.list_command(options.folder, as_json=options.json)


def _logs(options: argparse.Namespace) -> int:
    from diht_k8s.cli import local_runs

    if (output := local_runs.local_output(options.name)) is not None:
        return local_runs.logs_command(output, options.stage, follow=options.follow, lines=options.tail)
    from diht_k8s.cli import cluster

    return cluster.logs(options.name, options.stage, options.namespace, follow=options.follow, lines=options.tail)


def _why(options: argparse.Namespace) -> int:
    from diht_k8s.cli import cluster

    return cluster.why(options.name, options.namespace, as_json=options.json)


def _plan(options: argparse.Namespace) -> int:
    from diht_k8s.cli import cluster

    overrides = [*options.overrides, *([f"pods.image={options.image}"] if options.image else [])]
    return cluster.plan(options.file, overrides, options.namespace, gpu=options.gpu, show_secrets=options.show_secrets)


def _retry(options: argparse.Namespace) -> int:
    from diht_k8s.cli import cluster

    return cluster.retry(options.name, options.namespace)


def _cancel(options: argparse.Namespace) -> int:
    from diht_k8s.cli import cluster

    return cluster.cancel(options.name, options.namespace)
