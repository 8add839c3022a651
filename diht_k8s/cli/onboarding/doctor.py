"""`diht doctor`: a sentence on each fault of versions, devices, disk, storage and shards."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from importlib import metadata
from typing import Final

from packaging.requirements import Requirement

from diht_k8s import __version__
from diht_k8s.api.documents import check, located, read_text
from diht_k8s.api.errors import DihtError, ExitCode, install_line
from diht_k8s.api.run import DihtRun
from diht_k8s.cli.checks import gpu_warnings, stage_problems
from diht_k8s.cli.onboarding.init import shard_patterns
from diht_k8s.cli.placement import this_machine
from diht_k8s.data.shards.sources import Shard, listed_shards
from diht_k8s.data.shards.storage import Storage
from diht_k8s.inspection.storage_checks import (
    READ,
    Finding,
    disk_findings,
    output_findings,
    shard_findings,
    table_findings,
)

DOCUMENTS: Final = (".yaml", ".yml", ".json", "-")


def doctor_command(target: str | None, *, every: bool, as_json: bool) -> int:
    """Print each finding; 64 if something is wrong.

    Args:
        target: a run document or shards; None for this machine only.
        every: read all shards.
        as_json: print one JSON object in place of text.
    """
    found: list[Finding] = []
    for finding in findings(target, every=every):
        found.append(finding)
        if not as_json:
            print(f"{'wrong' if finding.wrong else 'ok':<5} {finding.about}: {finding.says}", flush=True)
    wrong = sum(finding.wrong for finding in found)
    if as_json:
        print(json.dumps({"wrong": wrong, "findings": [asdict(finding) for finding in found]}))
    return ExitCode.USER_ERROR if wrong else ExitCode.DONE


def findings(target: str | None, *, every: bool) -> Iterator[Finding]:
    """All findings, in order.

    Args:
        target: a run document or shards; None for this machine only.
        every: read all shards.
    """
    yield from version_findings(_requirements())
    yield from device_findings(_listed_gpus(), _seen_gpus)
    if target is None:
        return
    if target.endswith(DOCUMENTS):
        yield from _run_findings(target, every=every)
    else:
        yield from _target_findings(target, every=every)


def _requirements() -> list[str]:
    """The requirements of the project; none where it runs from a checkout that is not installed."""
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
    wrong = False
    for requirement in map(Requirement, required):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": "recipe"}):
            continue
        found = installed_version(requirement.name)
        if found is None:
            yield Finding("versions", f"{requirement.name} is not installed: {install_line('recipe')}", wrong=True)
        elif not requirement.specifier.contains(found, prereleases=True):
            yield Finding(
                "versions",
                f"{requirement.name} {found} is installed, but {requirement.specifier} is needed: pip install "
                f"'{requirement.name}{requirement.specifier}'",
                wrong=True,
            )
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
    if not listed:
        yield Finding("devices", "no GPU: stages run on the CPU")
    elif (found := seen()) < listed:
        yield Finding(
            "devices",
            f"the driver lists {listed} GPUs, but torch sees {found}: install the CUDA build of torch that fits "
            f"the driver (nvidia-smi shows its version)",
            wrong=True,
        )
    else:
        yield Finding("devices", f"{found} GPUs")


def _listed_gpus() -> int:
    return this_machine().gpus


def _seen_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _target_findings(target: str, *, every: bool) -> Iterator[Finding]:
    storage = Storage()
    try:
        uris = storage.expand(shard_patterns(storage, target))
    except DihtError as error:
        yield Finding("shards", str(error), wrong=True)
        return
    shards = [Shard(uri, uri, "shards") for uri in uris]
    yield from shard_findings(storage, shards, most=len(shards) if every else READ)


def _run_findings(path: str, *, every: bool) -> Iterator[Finding]:
    text = read_text(path)
    run, problems = check(text)
    yield from (Finding("document", f"{path}: {problem}", wrong=True) for problem in problems)
    if run is None:
        return
    storage = Storage(run.spec.storage)
    yield from output_findings(storage, run.spec.data.output)
    try:
        found = stage_problems(run, run.spec.stages, whole=True)
        wrong = [each for each in found if each.certain]
        for each, problem in zip(found, located(text, found), strict=True):
            doubt = "" if each.certain else "warning: "
            yield Finding("document", f"{path}: {doubt}{problem}", wrong=each.certain)
        if any(each.field[1] == "data" for each in found):
            return
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
    lacks = gpu_warnings(run, gpu) if (gpu := this_machine().gpu) is not None else []
    yield from (Finding("document", f"{path}: {each}", wrong=True) for each in lacks)
    if not wrong and not lacks:
        yield Finding("document", f"{path} is valid")


def _needed(run: DihtRun, storage: Storage, uris: Sequence[str]) -> int:
    """Bytes of the kept pairs at most."""
    if run.spec.filter is None or run.spec.filter.output != "Shards":
        return 0
    return sum(storage.size(uri) for uri in uris)
