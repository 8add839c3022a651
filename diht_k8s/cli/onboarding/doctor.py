"""`diht doctor`: versions, devices, disk, storage and shards; one sentence for each thing that is wrong."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from diht_k8s.api.run import DihtRun
    from diht_k8s.recipe.inspection.storage_checks import Finding
    from diht_k8s.recipe.shards.storage import Storage

DOCUMENTS: Final = (".yaml", ".yml", ".json", "-")


def add_doctor(commands: Any) -> None:
    """Add the command to a parser's commands."""
    parser = commands.add_parser("doctor", help="say what is wrong with this machine, a run's storage and shards")
    parser.description = (
        "Check versions of packages and devices; with a run document its text, disk, storage (conditional writes, rights) "
        "and shards; with shards (a folder, a pattern, an s3:// prefix) those alone: suffixes, damage, the first bad "
        "sample, sizes. One sentence for each thing that is wrong; exit code 64 if there is one."
    )
    parser.add_argument("target", metavar="RUN|SHARDS", nargs="?", help="a run document, or shards")
    parser.add_argument("--all", action="store_true", help="read every shard, not 8 that are spread over all")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(command=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    from diht_k8s.api.errors import ExitCode
    from diht_k8s.recipe.inspection import storage_checks  # noqa: F401 (names the extra where it is missing)

    found: list[Finding] = []
    for finding in findings(options.target, every=options.all):
        found.append(finding)
        if not options.json:
            print(f"{'wrong' if finding.wrong else 'ok':<5} {finding.about}: {finding.says}", flush=True)
    wrong = sum(finding.wrong for finding in found)
    if options.json:
        print(json.dumps({"wrong": wrong, "findings": [asdict(finding) for finding in found]}))
    return ExitCode.USER_ERROR if wrong else ExitCode.DONE


def findings(target: str | None, *, every: bool) -> Iterator[Finding]:
    """All that is found, in order.

    Args:
        target: a run document or shards; None checks this machine only.
        every: read all shards.
    """
    yield from version_findings(_required())
    yield from device_findings(_listed_gpus(), _seen_gpus)
    if target is None:
        return
    if target.endswith(DOCUMENTS):
        yield from _run_findings(target, every=every)
    else:
        yield from _shards_of(target, every=every)


def _required() -> list[str]:
    """What the project requires; nothing where it runs from a checkout that is not installed."""
    try:
        return metadata.requires("diht-k8s") or []
    except metadata.PackageNotFoundError:
        return []


def installed_version(package: str) -> str | None:
    """The version of a package; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def version_findings(required: Sequence[str]) -> Iterator[Finding]:
    """Packages that a run on this machine needs and that are missing or do not fit.

    Args:
        required: of the project, as its metadata has them.
    """
    from packaging.requirements import Requirement

    from diht_k8s import __version__
    from diht_k8s.recipe.inspection.storage_checks import Finding

    wrong = False
    for requirement in map(Requirement, required):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": "recipe"}):
            continue
        found = installed_version(requirement.name)
        if found is None:
            yield Finding(
                "versions", f"{requirement.name} is not installed: pip install 'diht-k8s[recipe]'", wrong=True
            )
        elif not requirement.specifier.contains(found, prereleases=True):
            yield Finding("versions", f"{requirement.name} {found} is installed, but {requirement.specifier} is needed: pip install '{requirement.name}{requirement.specifier}'", wrong=True)  # fmt: skip
        wrong = wrong or found is None or not requirement.specifier.contains(found, prereleases=True)
    if not wrong:
        python = ".".join(map(str, sys.version_info[:3]))
        yield Finding("versions", f"diht {__version__}, Python {python}, torch {installed_version('torch')}")


def device_findings(listed: int, seen: Callable[[], int]) -> Iterator[Finding]:
    """Whether torch sees the GPUs of this machine.

    Args:
        listed: number of GPUs that the driver lists.
        seen: number that torch sees; called where there are some.
    """
    from diht_k8s.recipe.inspection.storage_checks import Finding

    if not listed:
        yield Finding("devices", "no GPU: stages run on the CPU")
    elif (found := seen()) < listed:
        yield Finding("devices", f"the driver lists {listed} GPUs, but torch sees {found}: install the CUDA build of torch that fits the driver (nvidia-smi shows its version)", wrong=True)  # fmt: skip
    else:
        yield Finding("devices", f"{found} GPUs")


def _listed_gpus() -> int:
    from diht_k8s.cli.placement import this_machine

    return this_machine().gpus


def _seen_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _shards_of(target: str, *, every: bool) -> Iterator[Finding]:
    from diht_k8s.api.errors import DihtError
    from diht_k8s.cli.onboarding.init import shard_patterns
    from diht_k8s.recipe.inspection.storage_checks import READ, Finding, shard_findings
    from diht_k8s.recipe.shards.sources import Shard
    from diht_k8s.recipe.shards.storage import Storage

    storage = Storage()
    try:
        uris = storage.expand(shard_patterns(storage, target))
    except DihtError as error:
        yield Finding("shards", str(error), wrong=True)
        return
    shards = [Shard(uri, uri, "shards") for uri in uris]
    yield from shard_findings(storage, shards, most=len(shards) if every else READ)


def _run_findings(path: str, *, every: bool) -> Iterator[Finding]:
    from diht_k8s.api.documents import check, located, read_text
    from diht_k8s.api.errors import DihtError
    from diht_k8s.cli.document import run_problems
    from diht_k8s.recipe.inspection.storage_checks import (
        READ,
        Finding,
        disk_findings,
        output_findings,
        shard_findings,
        table_findings,
    )
    from diht_k8s.recipe.shards.sources import listed_shards
    from diht_k8s.recipe.shards.storage import Storage

    text = read_text(path)
    run, problems = check(text)
    yield from (Finding("document", f"{path}: {problem}", wrong=True) for problem in problems)
    if run is None:
        return
    storage = Storage(run.spec.storage)
    yield from output_findings(storage, run.spec.data.output)
    try:
        shards = listed_shards(run.spec, storage)
    except DihtError as error:
        yield Finding("shards", str(error), wrong=True)
        return
    if (folder := storage.local_path(run.spec.data.output)) is not None:
        yield from disk_findings(folder, _needed(run, storage, [shard.uri for shard in shards]))
    if shards:
        yield from shard_findings(storage, shards, most=len(shards) if every else READ)
    if any(source.captions for source in run.spec.data.sources):
        yield from table_findings(run, storage)
    foreseen = located(text, run_problems(run))
    yield from (Finding("document", f"{path}: {problem}", wrong=True) for problem in foreseen)
    if not foreseen:
        yield Finding("document", f"{path} is valid")


def _needed(run: DihtRun, storage: Storage, uris: Sequence[str]) -> int:
    """Bytes of the kept pairs at most."""
    if run.spec.filter is None or run.spec.filter.output != "Shards":
        return 0
    return sum(storage.size(uri) for uri in uris)
