"""Which Kubernetes, Helm, Python and torch this runs with: runs tests with another one, records it, writes the docs' table.

    python -m tools.compatibility kubernetes 1.31.14       # an API server without nodes, built by tests/cluster/api_server
    python -m tools.compatibility helm ~/helm-4/bin/helm   # with KUBECONFIG of the cluster of tests/cluster installs and upgrades, too
    python -m tools.compatibility python ~/python-3.13/bin/python3   # an environment where every package is installed by hashes
    python -m tools.compatibility torch ~/torch-2.15/bin/python3     # an environment with another torch, its torchvision and open_clip
    python -m tools.compatibility [--check]                # writes the table from the record; --check only compares

Only what passes is recorded. The rows of what each change is tested with come from where those versions are pinned.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

import yaml
from packaging.version import Version

from tools.kubernetes_types import MINOR

ROOT: Final = Path(__file__).resolve().parents[1]
RECORD: Final = "docs/compatibility.json"
PAGE: Final = "docs/install.md"
HEAD: Final = "| | version | how | what passed |\n|---|---|---|---|\n"
API_SERVER: Final = (
    "tests/cluster/test_crd.py",
    "tests/cluster/test_api_versions.py",
    "tests/cluster/test_dry_run.py",
    "tests/cluster/test_helm.py",
)
WITHOUT_NODES: Final = "test_crd or good_documents or chart_can_make or (test_api_versions and not next_version)"
HELM: Final = ("tests/contract/test_helm.py", "tests/contract/test_helm_schemas.py")


class Row(NamedTuple):
    """One version: of what, how it was tried, and what passed."""

    what: str
    version: str
    how: str
    passed: str


def kubernetes(version: str) -> Row:
    """The definition with its rules, documents, and all objects, by an API server of that version."""
    command = ["tests/cluster/api_server", f"v{version}", sys.executable]
    passed = _pytest(command, *API_SERVER, "-k", WITHOUT_NODES)
    return Row(
        "Kubernetes",
        version,
        "run: an API server without nodes",
        f"{passed} tests: definition, documents, objects of chart and runs",
    )


def helm(program: str) -> Row:
    """Linting, rendering, and on a cluster what `helm` does there, by that program."""
    version = _output(program, "version", "--template", "{{.Version}}").removeprefix("v")
    os.environ["DIHT_TEST_HELM"] = program
    passed, more = _pytest([sys.executable], *HELM), ""
    if "KUBECONFIG" in os.environ:
        installed = _pytest([sys.executable], "tests/cluster/test_helm.py")
        more = f", {installed}: install, upgrade, rollback, uninstall"
    return Row("Helm", version, "run", f"{passed} tests: lint, the same objects{more}")


def python(program: str) -> Row:
    """The unit tier in that environment."""
    version = _output(program, "-c", "import platform; print(platform.python_version())")
    passed = _pytest([program], "tests/unit")
    return Row("Python", version, "run: installed by hashes", f"{passed} tests: the unit tier")


def torch(program: str) -> Row:
    """The recipe's unit tests and a training in that environment."""
    names = ("torch", "torchvision", "open_clip_torch")
    source = f"from importlib.metadata import version; print(*map(version, {names}))"
    versions = _output(program, "-c", source).split()
    passed = _pytest([program], "tests/unit/stages/train", "tests/recipe/train/test_resume.py")
    others = ", ".join(f"{name} {version}" for name, version in zip(names[1:], versions[1:], strict=True))
    return Row("torch", versions[0], f"run: with {others}", f"{passed} tests: of the training, units and resuming")


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _pytest(command: Sequence[str], *arguments: str) -> int:
    """How many tests pass; it ends here where one does not."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    found = re.search(r"^(\d+) passed", done.stdout, re.MULTILINE)
    if done.returncode != 0 or found is None:
        sys.exit(f"{done.stdout[-4000:]}\nnot recorded")
    return int(found[1])


def every_change() -> list[Row]:
    """What `make test` runs with, from where it is pinned."""
    how = "run with every change"
    pins = dict(line.split("==") for line in _text("constraints.txt").splitlines() if "==" in line)
    return [
        Row(
            "Kubernetes",
            _pinned("tests/cluster/kube/go.mod", r"k8s.io/kubernetes v([\d.]+)"),
            f"{how}: two nodes",
            "all tests of a cluster",
        ),
        Row("Helm", _pinned("tests/cluster/extra", r"helm/v3/cmd/helm v([\d.]+)"), how, "all tests of the chart"),
        Row("Python", _pinned(".github/workflows/test.yml", r'python-version: "([\d.]+)"'), how, "all tests"),
        Row(
            "torch",
            pins["torch"],
            f"{how}: with torchvision {pins['torchvision']}, open_clip_torch {pins['open-clip-torch']}",
            "all tests",
        ),
    ]


def schema_only(rows: Sequence[Row]) -> Row:
    """The supported Kubernetes that are in no row: objects are held against their schemas with every change."""
    oldest = re.search(r"1\.(\d+)", yaml.safe_load(_text("helm/diht-operator/Chart.yaml"))["kubeVersion"])
    assert oldest
    supported = [f"1.{minor}" for minor in range(int(oldest[1]), int(MINOR.split(".")[1]) + 1)]
    run = {row.version.rpartition(".")[0] for row in rows if row.what == "Kubernetes"}
    rest = ", ".join(minor for minor in supported if minor not in run)
    return Row("Kubernetes", rest, "schema only, with every change", "objects of the chart, Jobs of stages")


def _text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def _pinned(path: str, pattern: str) -> str:
    found = re.search(pattern, _text(path))
    assert found, f"{path} pins no version"
    return found[1]


def recorded() -> list[Row]:
    """The rows of the record."""
    return [Row(*(row[name] for name in Row._fields)) for row in json.loads(_text(RECORD))]


def record(row: Row) -> None:
    """Put a row in place of that of the same version, with the day."""
    kept = [each for each in json.loads(_text(RECORD)) if (each["what"], each["version"]) != row[:2]]
    rows = [*kept, {**row._asdict(), "on": datetime.now(UTC).date().isoformat()}]
    rows.sort(key=lambda each: (each["what"], Version(each["version"])))
    (ROOT / RECORD).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def page() -> str:
    """The page with the table as record and pins give it."""
    order = ["Kubernetes", "Helm", "Python", "torch"]
    pinned = every_change()
    rows = [*pinned, *(row for row in recorded() if row[:2] not in [each[:2] for each in pinned])]
    rows = sorted([*rows, schema_only(rows)], key=lambda row: order.index(row.what))
    table = HEAD + "".join(f"| {' | '.join(row)} |\n" for row in rows)
    before, found, rest = _text(PAGE).partition(HEAD)
    assert found, f"{PAGE} has no table"
    return before + table + re.sub(r"\A(\|.*\n)*", "", rest)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", nargs="?", choices=[each.__name__ for each in KINDS])
    parser.add_argument("which", nargs="?", help="a version of Kubernetes; else a program")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 when the table is stale")
    given = parser.parse_args(arguments)
    if given.what:
        record(next(each for each in KINDS if each.__name__ == given.what)(given.which))
    if given.check:
        return int(page() != _text(PAGE))
    (ROOT / PAGE).write_text(page(), encoding="utf-8")
    return 0


KINDS: Final = (kubernetes, helm, python, torch)

if __name__ == "__main__":
    sys.exit(main())
