"""Keeps home-made words and module names out, and test modules from importing each other. Part of `make lint`.

Prose is what a person reads: comments, docstrings, strings and names of definitions in Python; every line of other
files. Words that artefacts, captions or other programs fix stand in `ALLOWED`, each with its reason.

    python tools/check_words.py            # lists what it finds; exit code 1 if there is anything
    python tools/check_words.py --count    # only the number by room
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

PHRASES: Final = {
    r"mend(?:s|ed|ing)?": "fix, correct, normalise",
    r"untold": "unreported, missed",
    r"reckon(?:s|ed|ing)?": "compute",
    r"anew": "again, re-created",
    r"so many": "N, at most N",
    r"by half": "partially",
    r"passing faults?": "transient error",
    r"(?:a|one|each|every|per|this|long|last|next|first) look": "reconcile, reconciliation",
    r"looks (?:keep failing|for nothing|that ended|took|are)": "reconciles",
    r"(?:is|are) no quantit(?:y|ies)": "invalid quantity",
    r"nobody hears from": "pod lost (node not ready)",
    r"placed here": "overridden locally",
    r"pictures?": "image",
}
"""Pattern between word boundaries, case ignored: what to write in its place."""

LIKELY: Final = re.compile("|".join(PHRASES).replace(" ", r"[\W_]+"), re.IGNORECASE)
"""Found in the whole text of each file with a hit; most files have none, and their prose need not be found."""

MODULES: Final = frozenset(
    {
        "mending",
        "judging",
        "news",
        "complaints",
        "memory",
        "acting",
        "reading",
        "assembly",
        "order",
        "source",
        "averaging",
        "observing",
        "preparation",
        "ahead",
        "saving",
        "kinds",
        "keeping",
        "programs",
        "purging",
        "views",
        "epochs",
        "rank",
        "peers",
    }
)
"""Names that no module below `diht_k8s` may have: the field has another word for each."""

SCANNED: Final = {
    ".py",
    ".md",
    ".yaml",
    ".yml",
    ".toml",
    ".jinja",
    ".js",
    ".css",
    ".txt",
    ".tpl",
    ".Containerfile",
    ".json",
}

SKIPPED: Final = (
    "*/stop_list.txt",
    "*/wordlists.py",
    "constraints.txt",  # words of captions; package names
    "docs/dihtrun.schema.json",
    "*/diht.dev_dihtruns.yaml",  # generated from the models, which are checked
    "examples/data/*",
    "tests/*.json",
    "tests/**/documents/*",
    "tests/contract/golden_helm/*",  # data
    "tools/check_words.py",
    "tests/unit/tools/test_check_words.py",  # they name the words
)

ALLOWED: Final = {
    r"[\"'`.\[/]pictures?\b|\bpictures?[\"'`\]]": "*",  # keys of artefacts (`report.json` keeps its format) and paths
    r"\bpictures?[_.-]\w+|\w+[_.-]pictures?\b": "*",  # reason codes (`picture_unreadable`) and other identifiers
    r"\bmacro picture\b|\bpicture\(|\bbars, picture\b": "*.jinja",  # the report's macro
    r"\bPICTURES\b": "*",  # a variable of the chart's test
    r"^\s+pictures?:|\{pictures?\b": "*.py",  # parameters and variables
    # words of captions
    r"\brepresent picture portray\b|\bfilm picture\b\b|\bimage picture\b|\bphotograph picture image\b": "*.py",
    r"\ba picture of \{": "*",  # a prompt of zero-shot classification
}
"""What artefacts, other programs and captions say: pattern of the words in their context, and in which files."""


@dataclass(frozen=True)
class Hit:
    """One place, and what is wrong there."""

    path: str
    line: int
    problem: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.problem}"


def prose_of(path: str, text: str) -> Iterator[tuple[int, str]]:
    """What a person reads in a file: pairs of line number and text."""
    if not path.endswith(".py"):
        yield from enumerate(text.splitlines(), 1)
        return
    previous = ""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        is_text = token.type in (tokenize.COMMENT, tokenize.STRING) or "FSTRING_MIDDLE" in tokenize.tok_name[token.type]
        if is_text:
            for offset, line in enumerate(token.string.splitlines()):
                yield token.start[0] + offset, line
        elif token.type == tokenize.NAME and previous in ("def", "class"):
            yield token.start[0], _words_of(token.string).lower().replace("picture", "")  # identifiers may keep it
        previous = token.string


def _words_of(name: str) -> str:
    """`_mend_nounPhrase` as "mend noun Phrase"."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.replace("_", " ")).strip()


def phrase_hits(path: str, text: str) -> list[Hit]:
    """Home-made phrases in the prose of a file, also those that are broken over two lines."""
    if not LIKELY.search(text):
        return []
    allowed = [re.compile(pattern) for pattern, files in ALLOWED.items() if fnmatch(path, files)]
    found, before = [], (0, "")
    for number, line in prose_of(path, text):
        for pattern in allowed:
            line = pattern.sub(" ", line)
        line = line.strip("#/ \t")
        start = f"{before[1]} " if before[0] == number - 1 else ""
        for pattern, better in PHRASES.items():
            for match in re.finditer(rf"\b(?:{pattern})\b(?!-)", start + line, re.IGNORECASE):
                if match.end() > len(start):  # else the line before has it
                    place = number if match.start() >= len(start) else number - 1
                    found.append(Hit(path, place, f'"{match[0]}": write {better}'))
        before = (number, line)
    return found


def module_hits(paths: Iterable[str]) -> list[Hit]:
    """Modules and packages of `diht_k8s` with a home-made name."""
    ours = [path for path in paths if path.startswith("diht_k8s/") and path.endswith(".py")]
    names = {(path, part) for path in ours for part in Path(path).with_suffix("").parts[1:] if part in MODULES}
    return [Hit(path, 1, f"module name {name}: see MODULES in tools/check_words.py") for path, name in sorted(names)]


def import_hits(path: str, text: str) -> list[Hit]:
    """Imports of a test module by another file: what both need belongs into a support module."""
    if not path.endswith(".py") or not re.search(r"import[\s\w,(.]*\btest_|\btest_\w+\s+import", text):
        return []
    found = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        modules = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
            if modules[0].partition(".")[0] == "tests" or node.level:
                modules += [f"{modules[0]}.{alias.name}" for alias in node.names]
        for module in modules:
            parts = module.split(".")
            if parts[-1].startswith("test_") and (parts[0] == "tests" or len(parts) == 1 or not parts[0]):
                found.append(Hit(path, node.lineno, f"imports {module}: put what both need into a support module"))
    return found


def check(root: Path, paths: Sequence[str]) -> list[Hit]:
    """All hits of some files below a root."""
    found = module_hits(paths)
    for path in paths:
        if Path(path).suffix not in SCANNED and path != "Makefile":
            continue
        text = (root / path).read_text(encoding="utf-8")
        found += import_hits(path, text)
        if not any(fnmatch(path, pattern) for pattern in SKIPPED):
            found += phrase_hits(path, text)
    return found


def room(path: str) -> str:
    """Where a file lives, for counting: `diht_k8s/stages/filter`, `tests/unit`, `docs`."""
    depth = 3 if path.startswith("diht_k8s/stages/") else 2 if path.startswith(("diht_k8s/", "tests/")) else 1
    return "/".join(Path(path).parts[:-1][:depth]) or path


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the files that git knows, or those named; the exit code."""
    parser = argparse.ArgumentParser(description="Find home-made words, module names and imports between tests.")
    parser.add_argument("paths", nargs="*", help="files; all that git tracks if none is named")
    parser.add_argument("--count", action="store_true", help="only count, by room")
    options = parser.parse_args(arguments)
    root = Path(__file__).resolve().parents[1]
    command = ["git", "ls-files", *options.paths]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    found = check(root, [path for path in listed.stdout.splitlines() if (root / path).is_file()])
    if options.count:
        for name, number in sorted(Counter(room(hit.path) for hit in found).items()):
            print(f"{number:5d} {name}")
    else:
        print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
