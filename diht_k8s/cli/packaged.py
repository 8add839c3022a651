"""`diht schema`, `crd`, `samples` and `chart`: files that the package brings, so that a cluster can be served from it alone.

The wheel has them below `diht_k8s/packaged` (`tools/wheel_files.py`). Where the package is installed in place, they are those
of the repository.
"""

from __future__ import annotations

import argparse
import re
import textwrap
from pathlib import Path
from typing import Any, Final

import diht_k8s
from diht_k8s.api.errors import ExitCode, UserError, suggestion

SCHEMA: Final = "docs/dihtrun.schema.json"
CRD: Final = "manifests/crd/diht.dev_dihtruns.yaml"
SAMPLES: Final = "manifests/samples"
CHART: Final = "helm/diht-operator"
SENTENCE: Final = 100
"""Characters of a sample's description in the list."""


def packaged(name: str) -> Path:
    """A file or folder of the package, by its path in the repository.

    Raises:
        UserError: the installation lacks it.
    """
    package = Path(diht_k8s.__file__).resolve().parent
    for root in (package / "packaged", package.parent):
        if (root / name).exists():
            return root / name
    raise UserError(f"this installation of diht-k8s lacks {name}: install the package again from a wheel")


def add_packaged(commands: Any) -> None:
    """Add the commands to a parser's commands."""
    _add_text(
        commands, "schema", SCHEMA, "print the JSON schema of run documents, for editors",
        "Print the JSON schema of run documents. An editor that knows it completes fields and marks wrong ones: begin "
        "the document with `# yaml-language-server: $schema=FILE`.",
    )  # fmt: skip
    _add_text(
        commands, "crd", CRD, "print the CustomResourceDefinition, for kubectl apply",
        "Print the CustomResourceDefinition of runs: diht crd | kubectl apply --server-side -f -",
    )  # fmt: skip
    samples = commands.add_parser("samples", help="list, print or write sample run documents")
    samples.description = "List the sample run documents, print one of them, or write them into a folder."
    samples.add_argument("name", nargs="?", metavar="NAME", help="print this one; all are listed if unset")
    samples.add_argument("--output", metavar="DIR", help="write NAME, or all of them, into this folder")
    samples.set_defaults(command=_samples, extra="")
    chart = commands.add_parser("chart", help="write the operator's Helm chart into a folder")
    chart.description = (
        "Write the Helm chart of the operator into a folder: diht chart diht-operator, then "
        "helm install diht-operator ./diht-operator --namespace diht-system --create-namespace"
    )
    chart.add_argument("output", metavar="DIR", help="folder of the chart; created if it is missing")
    chart.set_defaults(command=_chart, extra="")


def _add_text(commands: Any, name: str, path: str, says: str, description: str) -> None:
    parser = commands.add_parser(name, help=says)
    parser.description = description
    parser.add_argument("--output", metavar="FILE", help="write it into this file in place of the screen")
    parser.set_defaults(command=_text, path=path, extra="")


def _text(options: argparse.Namespace) -> int:
    source = packaged(options.path)
    if options.output is None:
        print(source.read_text(encoding="utf-8").rstrip("\n"))
    else:
        write({Path(options.output): source.read_bytes()})
    return ExitCode.DONE


def _samples(options: argparse.Namespace) -> int:
    files = {path.stem: path for path in sorted(packaged(SAMPLES).glob("*.yaml"))}
    if options.name is not None:
        files = {options.name: _sample(files, options.name.removesuffix(".yaml"))}
    if options.output is not None:
        write({Path(options.output) / path.name: path.read_bytes() for path in files.values()})
    elif options.name is not None:
        print(files[options.name].read_text(encoding="utf-8").rstrip("\n"))
    else:
        width = max(map(len, files))
        for name, path in files.items():
            print(f"{name:{width}}  {first_sentence(path.read_text(encoding='utf-8'))}")
    return ExitCode.DONE


def _sample(files: dict[str, Path], name: str) -> Path:
    if name not in files:
        hint = suggestion(name, files, f"there are {', '.join(files)}")
        raise UserError(f"no sample {name}: {hint}")
    return files[name]


def first_sentence(document: str) -> str:
    """Of the comment with which a document begins."""
    comment = re.match(r"(?:#.*\n)*", document)
    words = " ".join(line.lstrip("# ") for line in (comment[0] if comment else "").splitlines())
    return textwrap.shorten(re.split(r"(?<=\.)\s", words, maxsplit=1)[0].rstrip("."), SENTENCE, placeholder=" ...")


def _chart(options: argparse.Namespace) -> int:
    source = packaged(CHART)
    files = [path for path in sorted(source.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
    write({Path(options.output) / path.relative_to(source): path.read_bytes() for path in files})
    return ExitCode.DONE


def write(files: dict[Path, bytes]) -> None:
    """Write files and print their names; those that are there with the same bytes stay.

    Raises:
        UserError: one of them is there with other bytes, or cannot be written. Then none is written in the first case.
    """
    try:
        for path, data in files.items():
            if path.exists() and (not path.is_file() or path.read_bytes() != data):
                raise UserError(f"{path} is there with other content: remove it, or name another place")
        for path, data in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            print(path)
    except OSError as error:
        raise UserError(f"cannot write {error.filename}: {error.strerror}") from error
