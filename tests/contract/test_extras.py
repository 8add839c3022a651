"""What each command says where the package was installed without its extras: one line that names the way out.

The environments are real: `python -m venv`, with links to the installed packages that `pip install diht-k8s[EXTRAS]`
brings. The commands are forks of one interpreter of each, which has imported what all of them need.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import venv
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest

from diht_k8s.api.hashing import sha256_of
from diht_k8s.cli.arguments import BENCHMARKS_IMPORT, make_parser, parsers_of

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = """\
apiVersion: diht.dev/v1alpha1
kind: DihtRun
metadata: {name: small}
spec:
  data: {sources: [{name: web, shards: ["s3://corpus/a.tar"]}], output: s3://corpus/out}
  filter: {}
  label: {}
  train: {model: ViT-B-16, samples: 1000, batchSize: 8}
  evaluate: {benchmarks: [{name: b, type: Retrieval, shards: ["s3://corpus/b.tar"]}]}
  pods: {image: "recipe:1"}
"""
VOCABULARY = """{"schema_version": 1, "sha256": "SHA256", "captions": 3,
 "objects": [{"name": "dog", "count": 3}], "attributes": [{"name": "red", "count": 2}],
 "cut": {"objects": {"distinct": 1, "least_count": 1}, "attributes": {"distinct": 1, "least_count": 1}}}"""
RECIPE, OPERATOR = "pip install 'PLACE[recipe]'", "pip install 'PLACE[operator]'"
NEEDS = {
    "--help": "",
    "--version": "",
    "validate run.yaml": "",
    "concepts vocabulary.json": "",
    "concepts s3://b/vocabulary.json": RECIPE,
    "run run.yaml": RECIPE,
    "sweep run.yaml --seeds 2": RECIPE,
    "prune out": RECIPE,
    "sweep run.yaml --seeds 2 --submit": OPERATOR,
    "stage filter --run run.yaml": RECIPE,
    "stage label --run run.yaml": RECIPE,
    "stage train --run run.yaml": RECIPE,
    "stage evaluate --run run.yaml": RECIPE,
    "parse words": RECIPE,
    "concepts run.yaml": RECIPE,
    "path run.yaml filter": RECIPE,
    "explain run.yaml u1": RECIPE,
    "purge run.yaml --exclude list": RECIPE,
    "index run.yaml": RECIPE,
    "estimate run.yaml --gpu H100": RECIPE,
    "benchmarks": RECIPE,
    "convert a b": RECIPE,
    "uids run.yaml --output a.npy": RECIPE,
    "report a": RECIPE,
    "submit run.yaml": OPERATOR,
    "watch small": OPERATOR,
    "logs small": OPERATOR,
    "plan run.yaml": OPERATOR,
    "retry small": OPERATOR,
    "cancel small": OPERATOR,
    "status small": OPERATOR,
    "list -n team": OPERATOR,
    "list .": "",
    "concepts gs://b/vocabulary.json": RECIPE,
    "concepts az://b/vocabulary.json": RECIPE,
    "import photos out": RECIPE,
    "init .": RECIPE,
    "doctor": RECIPE,
    "completion bash": "",
    "schema": "",
    "crd": "",
    "samples": "",
    "samples minimal": "",
    "chart operator": "",
}
"""Each command and what it says without any extra; empty where the base is enough."""
OF_OPERATOR = ["run run.yaml", "stage train --run run.yaml", *(line for line in NEEDS if NEEDS[line] == OPERATOR)]
EACH = """
import json, os, runpy, sys
import diht_k8s.cli.main, MODULE
for number, arguments in enumerate(json.load(sys.stdin)):
    if os.fork() == 0:
        os.chdir(str(number))
        for descriptor in (1, 2):
            os.dup2(os.open(str(descriptor), os.O_CREAT | os.O_WRONLY), descriptor)
        sys.argv = ["diht", *arguments.split()]
        runpy.run_module("diht_k8s.cli", run_name="__main__")
        sys.exit(0)
    print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
Said = dict[str, tuple[int, str]]
"""Arguments -> exit code and stderr."""


def requirements(package: Distribution, extra: str) -> list[str]:
    """Names that a package requires, with one of its extras or none."""
    names = []
    for line in package.requires or []:
        name, _, marker = line.partition(";")
        wanted = re.search(r"extra == ['\"]([\w-]+)['\"]", marker)
        if wanted is None or wanted[1] == extra:
            names.append(re.split(r"[^\w.-]", name.strip(), maxsplit=1)[0])
    return names


def closure(extra: str) -> dict[str, Distribution]:
    """The installed packages that `pip install diht-k8s[extra]` brings."""
    found: dict[str, Distribution] = {}
    waiting = requirements(distribution("diht-k8s"), extra)
    while waiting:
        name = waiting.pop()
        try:
            package = distribution(name)
        except PackageNotFoundError:  # for another platform
            continue
        if name not in found:
            found[name] = package
            waiting += requirements(package, "")
    return found


def environment(folder: Path, extra: str) -> list[str]:
    """An environment with some of the installed packages; its `diht`."""
    venv.create(folder, with_pip=False)
    packages = next(folder.glob("lib/python*/site-packages"))
    for package in closure(extra).values():
        for top in {file.parts[0] for file in package.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            link = packages / top
            if not link.exists():
                link.symlink_to(Path(str(package.locate_file(top))))
    (packages / "diht_k8s.pth").write_text(f"{ROOT}\n")
    return [str(folder / "bin" / "python"), "-P"]


def run(command: list[str], folder: Path, given: str = "") -> subprocess.CompletedProcess[str]:
    keep = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "KUBECONFIG")}
    env = {**keep, "HOME": str(folder)}
    return subprocess.run(
        command, cwd=folder, env=env, input=given, capture_output=True, text=True, timeout=300, check=False
    )


def said(python: list[str], folder: Path, *lines: str, module: str = "diht_k8s.cli.document") -> Said:
    for number in range(len(lines)):
        (folder / str(number)).mkdir()
        (folder / f"{number}/run.yaml").write_text(DOCUMENT)
        digest = sha256_of([("dog",), ("red",)])
        (folder / f"{number}/vocabulary.json").write_text(VOCABULARY.replace("SHA256", digest))
    codes = run([*python, "-c", EACH.replace("MODULE", module)], folder, json.dumps(lines)).stdout.split()
    return {
        line: (int(code), (folder / f"{number}/2").read_text())
        for number, (line, code) in enumerate(zip(lines, codes, strict=True))
    }


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return environment(tmp_path_factory.mktemp("base"), "")


@pytest.fixture(scope="module")
def of_base(base: list[str], tmp_path_factory: pytest.TempPathFactory) -> Said:
    return said(base, tmp_path_factory.mktemp("of_base"), *NEEDS)


@pytest.fixture(scope="module")
def of_operator(tmp_path_factory: pytest.TempPathFactory) -> Said:
    python = environment(tmp_path_factory.mktemp("operator"), "operator")
    return said(python, tmp_path_factory.mktemp("of_operator"), *OF_OPERATOR, module="diht_k8s.cli.cluster")


@pytest.fixture(scope="module")
def of_recipe(tmp_path_factory: pytest.TempPathFactory) -> Said:
    python = environment(tmp_path_factory.mktemp("recipe"), "recipe")
    stores = (f"concepts {extra}://bucket/vocabulary.json" for extra in ("gs", "az"))
    return said(python, tmp_path_factory.mktemp("of_recipe"), *stores)


def test_table_names_every_command() -> None:
    commands = parsers_of(make_parser()).keys() - {BENCHMARKS_IMPORT}
    assert {line.split()[0] for line in NEEDS if not line.startswith("-")} == commands


@pytest.mark.parametrize("arguments", NEEDS)
def test_command_without_its_extra_names_the_line_that_installs_it(of_base: Said, arguments: str) -> None:
    code, stderr = of_base[arguments]
    if not NEEDS[arguments]:
        assert (code, stderr) == (0, "")
        return
    assert (code, stderr.count("\n")) == (64, 1), stderr
    assert re.match(r"diht: the package \w+ is not installed: ", stderr)
    assert NEEDS[arguments] in stderr


@pytest.mark.parametrize("extra", ["gs", "az"])
def test_store_without_its_extra_names_the_line_that_installs_it(of_recipe: Said, extra: str) -> None:
    code, stderr = of_recipe[f"concepts {extra}://bucket/vocabulary.json"]
    assert code == 64, stderr
    last = stderr.strip().splitlines()[-1]
    assert re.match(rf"diht: {extra}:// needs more packages: the package \w+ is not installed: ", last)
    assert f"[{extra}]'" in last


def test_operator_without_its_extra_names_the_line_that_installs_it(base: list[str], tmp_path: Path) -> None:
    done = run([*base, "-m", "diht_k8s.controller"], tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (64, 1), done.stderr
    assert OPERATOR in done.stderr


@pytest.mark.parametrize("arguments", OF_OPERATOR)
def test_operators_packages_run_what_talks_to_a_cluster_and_nothing_else(of_operator: Said, arguments: str) -> None:
    code, stderr = of_operator[arguments]
    if arguments == "plan run.yaml":
        assert (code, stderr) == (0, "")
        return
    assert (code, stderr.count("\n")) == (64, 1), stderr
    assert (RECIPE if NEEDS[arguments] == RECIPE else "no cluster: ") in stderr
