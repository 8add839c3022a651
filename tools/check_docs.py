"""Checks what README and documentation tell a reader to type, write or follow: commands, YAML, Python, links, long
sentences.

Nothing is run. A `diht` command goes through the real parser, a run document (or a part of one) through the real
validator, `make` targets and paths must exist, links and their anchors too.

    python -m tools.check_docs         # lists what it finds; exit code 1 if there is anything
"""

from __future__ import annotations

import ast
import contextlib
import io
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

import yaml

from diht_k8s import __all__ as public_names
from diht_k8s.api.documents import check
from diht_k8s.api.errors import UserError
from diht_k8s.api.pods import Pods
from diht_k8s.api.run import Spec
from diht_k8s.cli.arguments import BENCHMARKS_IMPORT, make_parser, parsers_of
from tools.check_words import Hit

ROOT: Final = Path(__file__).resolve().parents[1]
OTHERS: Final = (
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "benchmarks/README.md",
    "examples/data/README.md",
    "helm/diht-operator/README.md",
    "tests/cluster/README.md",
)
SHORT_SENTENCES: Final = (
    "README.md",
    "docs/index.md",
    "docs/concepts.md",
    "docs/packages.md",
    "docs/troubleshooting.md",
    "docs/tutorial/*.md",
    "docs/how-to/*.md",
    "docs/reference/*.md",
)
"""Pages whose sentences have at most `MAX_WORDS` words."""
MAX_WORDS: Final = 30
GENERATED: Final = "docs/api.md"
MADE_PAGES: Final = {"docs/reference/cli.md": "tools/cli_reference.py"}
"""Pages that exist on the site only, and what makes them."""
_SHELL: Final = ("", "sh", "bash", "console", "shell")
_FENCE: Final = re.compile(r"^```([\w-]*)[^\n]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
_LINK: Final = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")
_FILLER: Final[dict[str, Any]] = {
    "data": {"sources": [{"name": "web", "shards": ["a.tar"]}], "output": "out"},
    "filter": {},
    "label": {},
}
"""What a part of a spec is completed with before it is validated."""


@dataclass(frozen=True)
class Fence:
    """A fenced block."""

    language: str
    body: str
    line: int
    """Of its first line, from 1."""

    @property
    def is_shell(self) -> bool:
        """Whether it shows what to type in a shell, and perhaps output."""
        return self.language in _SHELL


def fences(text: str) -> list[Fence]:
    """The fenced blocks of a page."""
    return [Fence(found[1], found[2], text.count("\n", 0, found.start()) + 2) for found in _FENCE.finditer(text)]


def check_page(path: str, text: str, root: Path = ROOT) -> list[Hit]:
    """All that is wrong on a page of the repository."""
    found: list[Hit] = []
    for fence in fences(text):
        if fence.is_shell:
            found += [Hit(path, fence.line + number, problem) for number, problem in shell_problems(fence.body, root)]
        elif fence.language in ("yaml", "yml") and path != GENERATED:
            found += [Hit(path, fence.line, problem) for problem in yaml_problems(fence.body)]
        elif fence.language == "python":
            found += [Hit(path, fence.line, problem) for problem in python_problems(fence.body)]
    prose = _FENCE.sub(lambda fence: "\n" * fence[0].count("\n"), text)
    found += [Hit(path, number, problem) for number, problem in inline_problems(prose)]
    found += [Hit(path, number, problem) for number, problem in link_problems(path, prose, root)]
    if any(fnmatch(path, pattern) for pattern in SHORT_SENTENCES):
        found += [Hit(path, number, problem) for number, problem in long_sentences(prose)]
    return found


def shell_problems(body: str, root: Path) -> Iterator[tuple[int, str]]:
    """What is wrong with the commands of a block: pairs of line number from 0 and problem."""
    number = 0
    for line in body.replace("\\\n", "\x00").splitlines():
        for words in _commands(line.replace("\x00", " ")):
            for problem in command_problems(words, root):
                yield number, problem
        number += 1 + line.count("\x00")


def _commands(line: str) -> Iterator[list[str]]:
    """The commands of a line, without redirections, settings of variables, prompt and comment."""
    lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars=True)
    lexer.wordchars += "{}@%:,+!^"
    lexer.commenters = "#"
    try:
        tokens = list(lexer)
    except ValueError:
        return  # a line of output, not a command
    words: list[str] = []
    for token in [*tokens, ";"]:
        if set(token) <= set("();<>|&"):
            if words:
                yield words
            words = []
        elif words or not re.match(r"[A-Z_]+=", token):
            words.append(token)


def command_problems(words: Sequence[str], root: Path) -> Iterator[str]:
    """What is wrong with one command, where it is one that we know."""
    name, rest = words[0].rpartition("/")[2], list(words[1:])
    if name == "diht":
        yield from diht_problems(rest, root)
    elif name == "make":
        targets = set(re.findall(r"(?m)^([.\w/-]+):", (root / "Makefile").read_text())) | {".venv/.installed"}
        named = [word for word in rest if "=" not in word and not word.startswith("-")]
        yield from (f"make has no target {word}" for word in named if word not in targets)
    elif words[0] == "benchmarks/run" and rest:
        if not any((root / "benchmarks" / f"{rest[0]}{end}").exists() for end in (".py", "/__main__.py")):
            yield f"there is no benchmark {rest[0]}"
    elif name == "torchx":
        components = set(re.findall(r"(?m)^def (\w+)", (root / "components/__init__.py").read_text()))
        named = [word.removeprefix("components.") for word in rest if word.startswith("components.")]
        yield from (f"there is no component {word}" for word in named if word not in components)
    elif name in ("python", "python3") and rest and re.match(r"(tools|examples|benchmarks|tests)/", rest[0]):
        yield from [] if (root / rest[0]).exists() else [f"{rest[0]} is not there"]


def diht_problems(words: list[str], root: Path) -> Iterator[str]:
    """What the parser says about a `diht` command, and the validator about its `--set` and its file."""
    if words[:2] == ["benchmarks", "import"]:
        words = [BENCHMARKS_IMPORT, *words[2:]]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            options = make_parser().parse_args(words)
    except SystemExit as ended:
        if ended.code:
            yield f"diht {' '.join(words)}: {said.getvalue().strip().splitlines()[-1]}"
        return
    file: str = getattr(options, "file", None) or ""
    overrides: list[str] = getattr(options, "overrides", [])
    ours = re.match(r"(examples|manifests)/", file)
    if ours and not (root / file).is_file():
        yield f"{file} is not there"
    elif ours or overrides:
        text = (root / (file if ours else "examples/demo.yaml")).read_text(encoding="utf-8")
        try:
            problems = check(text, overrides=overrides)[1]
        except UserError as error:
            problems = [str(error)]
        yield from (f"diht {' '.join(words)}: {problem}" for problem in problems)


def yaml_problems(body: str) -> list[str]:
    """What the validator says about a run document, or about keys of its spec or of its pods."""
    try:
        value = yaml.safe_load(body)
    except yaml.YAMLError as error:
        return [f"not YAML: {str(error).splitlines()[0]}"]
    if not isinstance(value, dict):
        return ["not a mapping"]
    if value.get("kind") == "DihtRun":
        return [str(problem) for problem in check(body)[1]]
    if "kind" in value:
        return []  # a document of another program
    spec_keys, pod_keys = (
        {field.alias or name for name, field in model.model_fields.items()} for model in (Spec, Pods)
    )
    if value.keys() <= spec_keys:
        spec = {**_FILLER, **value}
    elif value.keys() <= pod_keys:
        spec = {**_FILLER, "pods": {"image": "recipe:1", **value}}
    else:
        return [f"neither a run document nor keys of a spec or of pods: {', '.join(map(str, value))}"]
    head = {"apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "metadata": {"name": "part"}}
    return [str(problem).partition(": ")[2] for problem in check(yaml.safe_dump({**head, "spec": spec}))[1]]


def python_problems(body: str) -> list[str]:
    """Syntax errors, and names that `diht_k8s` does not export."""
    try:
        tree = ast.parse(body)
    except SyntaxError as error:
        return [f"not Python: {error}"]
    named = [
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "diht_k8s"
        for alias in node.names
    ]
    return [f"diht_k8s does not export {name}" for name in named if name not in public_names]


def inline_problems(prose: str) -> Iterator[tuple[int, str]]:
    """`diht NAME --option` in running text names a command and options that there are."""
    parsers = parsers_of(make_parser())
    for match in re.finditer(r"`diht ([^`]+)`", prose):
        words = match[1].split()
        line = prose.count("\n", 0, match.start()) + 1
        if words[0] not in parsers:
            if re.fullmatch(r"[a-z][\w-]*", words[0]):
                yield line, f"diht has no command {words[0]}"
            continue
        parser = parsers[BENCHMARKS_IMPORT if words[:2] == ["benchmarks", "import"] else words[0]]
        options = {option for action in parser._actions for option in action.option_strings}
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", match[1]):
            if option not in options:
                yield line, f"diht {words[0]} has no option {option}"


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them, and those that it sets itself."""
    found = set(re.findall(r'<a id="([^"]+)"', text))
    for heading in re.findall(r"(?m)^#+ +(.+?)\s*$", _FENCE.sub("", text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"))
    return found


def link_problems(path: str, prose: str, root: Path) -> Iterator[tuple[int, str]]:
    """Relative links whose file or anchor is not there."""
    for match in _LINK.finditer(prose):
        target, _, anchor = match[1].partition("#")
        line = prose.count("\n", 0, match.start()) + 1
        if re.match(r"[a-z]+:", target):
            continue
        file = (root / path).parent / target if target else root / path
        resolved = file.resolve()
        name = resolved.relative_to(root.resolve()).as_posix() if resolved.is_relative_to(root.resolve()) else target
        if name in MADE_PAGES:
            continue
        if not file.exists():
            yield line, f"link to {match[1]}: not there"
        elif anchor and resolved.suffix == ".md" and anchor not in anchors(resolved.read_text(encoding="utf-8")):
            yield line, f"link to {match[1]}: no such heading"


def long_sentences(prose: str) -> Iterator[tuple[int, str]]:
    """Sentences of running text and lists that have more than `MAX_WORDS` words."""
    line = 1
    for block in re.split(r"(\n\s*\n|\n(?=- |\d+\. |\||#))", prose):
        text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", block)
        text = re.sub(r"`[^`]*`", "CODE", text)
        if not text.lstrip().startswith(("|", ":::", "<")):
            for sentence in re.split(r"(?<=[.!?:;])\s+", text):
                words = [word for word in sentence.split() if re.search(r"\w", word)]
                if len(words) > MAX_WORDS:
                    yield line, f"a sentence of {len(words)} words: {' '.join(words[:8])} ..."
        line += block.count("\n")


def pages(root: Path = ROOT) -> list[str]:
    """Paths of the pages that are checked."""
    return [*OTHERS, *sorted(path.relative_to(root).as_posix() for path in (root / "docs").rglob("*.md"))]


def main() -> int:
    """Check all pages; the exit code."""
    found = [hit for path in pages() for hit in check_page(path, (ROOT / path).read_text(encoding="utf-8"))]
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
