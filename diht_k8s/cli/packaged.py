"""`diht schema`, `crd`, `samples`, `chart` and `completion`: files for other programs, so that a cluster needs nothing
else.

The wheel has them below `diht_k8s/packaged` (`tools/wheel_files.py`). Where the package is installed in place, they are
those of the repository.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Final

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


def schema_command(output: str | None) -> int:
    """Print the JSON schema of run documents, or write it into a file; the exit code."""
    return _text_command(SCHEMA, output)


def crd_command(output: str | None) -> int:
    """Print the CustomResourceDefinition, or write it into a file; the exit code."""
    return _text_command(CRD, output)


def _text_command(path: str, output: str | None) -> int:
    source = packaged(path)
    if output is None:
        print(source.read_text(encoding="utf-8").rstrip("\n"))
    else:
        write({Path(output): source.read_bytes()})
    return ExitCode.DONE


def samples_command(name: str | None, output: str | None) -> int:
    """List the sample run documents, print one, or write them into a folder; the exit code."""
    files = {path.stem: path for path in sorted(packaged(SAMPLES).glob("*.yaml"))}
    if name is not None:
        files = {name: _sample(files, name.removesuffix(".yaml"))}
    if output is not None:
        write({Path(output) / path.name: path.read_bytes() for path in files.values()})
    elif name is not None:
        print(files[name].read_text(encoding="utf-8").rstrip("\n"))
    else:
        width = max(map(len, files))
        for stem, path in files.items():
            print(f"{stem:{width}}  {first_sentence(path.read_text(encoding='utf-8'))}")
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


def chart_command(output: str) -> int:
    """Write the operator's chart into a folder; the exit code."""
    source = packaged(CHART)
    files = [path for path in sorted(source.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
    write({Path(output) / path.relative_to(source): path.read_bytes() for path in files})
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


FILES: Final = ("FILE", "DIR", "SOURCE", "OUTPUT", "DATA", "RUN", "RUN|SHARDS", "FOLDER", "ROOT", "LIST", "TARGET")
"""Arguments that take a path."""


def completion_command(shell: str) -> int:
    """Print the script that completes commands, options and files in a shell; the exit code."""
    import shtab

    from diht_k8s.cli.arguments import BENCHMARKS_IMPORT, make_parser, parsers_of

    whole = make_parser()
    parsers = parsers_of(whole)
    del parsers[BENCHMARKS_IMPORT]  # nobody types it
    for parser in parsers.values():
        for action in parser._actions:
            if action.metavar in FILES:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(whole, shell))
    return ExitCode.DONE
