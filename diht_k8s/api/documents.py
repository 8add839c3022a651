"""Run documents in and out: read with line numbers and helpful problems, `--set` overrides, canonical JSON."""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args

from pydantic import BaseModel, ValidationError

from diht_k8s.api.base import (
    BUCKET_PATTERN,
    DNS_NAME,
    IMAGE,
    LABEL_VALUE,
    FieldPath,
    dotted,
    in_object_store,
    is_array,
    is_dict,
    is_list,
    is_object,
)
from diht_k8s.api.errors import UserError, suggestion
from diht_k8s.api.field_problems import FieldProblem
from diht_k8s.api.pod_security import IDLE_CAPABILITIES, idle_capabilities, run_demands
from diht_k8s.api.pods import Pods
from diht_k8s.api.redaction import (
    REDACTED,
    holds_literals,
    redacted_document,
    redacted_override,
    redacted_text,
    suspicious,
)
from diht_k8s.api.run import DihtRun
from diht_k8s.api.yaml_tree import MAX_BYTES, Tree, YamlError, read_tree, scalar

MAX_PROBLEMS: Final = 50
"""A person reads no more of them."""
MAX_FILE_BYTES: Final = 4 * MAX_BYTES
"""A document of `MAX_BYTES` characters has at most this many bytes."""
MAX_CHARACTERS: Final = 800
"""A message shows no more of a field's name or of an override."""
STANDARD_INPUT: Final = "-"
_BUCKET: Final = re.compile(rf"{BUCKET_PATTERN}(/|\Z)")
_KINDS: Final[Mapping[str, str]] = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text (a number or yes/no needs quotes)",
    "list_type": "a list: [A, B], or a line `- A` for each",
    "none_required": "nothing",
}
_BOUNDS: Final[Mapping[str, str]] = {
    "greater_than_equal": "a number of at least {ge}",
    "less_than_equal": "a number of at most {le}",
    "greater_than": "a number above {gt}",
    "less_than": "a number below {lt}",
    "string_too_short": "text of at least {min_length} characters",
    "string_too_long": "text of at most {max_length} characters",
    "too_short": "at least {min_length} entries",
    "too_long": "at most {max_length} entries",
}
_PATTERNS: Final[Mapping[str, str]] = {
    "^[a-z]([-a-z0-9]*[a-z0-9])?$": "lower-case letters, digits and dashes, beginning with a letter",
    "^[A-Za-z0-9_.-]+$": "letters, digits, dots, dashes and underscores",
    "^[A-Za-z_][A-Za-z0-9_]*$": "letters, digits and underscores, beginning with no digit",
    r"^[^\x00-\x1f\x7f]*$": "one line of text without control characters",
    DNS_NAME: "lower-case letters, digits, dashes and dots, with a letter or digit at both ends",
    LABEL_VALUE: "letters, digits, `-`, `_` and `.`, with a letter or digit at both ends",
    IMAGE: "an image without spaces, such as registry.example.org/recipe:1",
}


@dataclass(frozen=True)
class DocumentProblem:
    """One thing that is wrong in a document."""

    line: int
    """from 1; 0 where no line is to blame."""
    field: str
    message: str

    def __str__(self) -> str:
        """`line 12: spec.train.optimzer: unknown key; did you mean optimizer?`, always one line of printable
        characters.
        """
        line = f"line {self.line}" if self.line else ""
        return ": ".join(part for part in (line, printable(self.field), printable(self.message)) if part)


def printable(text: str) -> str:
    """Text for a terminal: what is not printable is escaped, and a very long text is cut."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:MAX_CHARACTERS])
    return shown if len(text) <= MAX_CHARACTERS else f"{shown}..."


def check(text: str, *, overrides: Iterable[str] = ()) -> tuple[DihtRun | None, list[DocumentProblem]]:
    """Read a document.

    Args:
        text: YAML or JSON.
        overrides: `PATH=VALUE` as in `--set train.samples=1000` (below `spec`, values read as YAML).

    Returns:
        The run and no problems, or None and what is wrong: the first `MAX_PROBLEMS` problems and the number of the
        others.

    Raises:
        UserError: an override cannot be read.
    """
    try:
        tree = read_tree(text)
    except YamlError as error:
        line = _leading_line(str(error))
        return None, [DocumentProblem(line, "", str(error).removeprefix(f"line {line}: "))]
    value: Any = tree.value
    if not is_dict(value):
        return None, [DocumentProblem(1, "", "a run document is a mapping with apiVersion, kind, metadata and spec")]
    for override in overrides:
        _apply(value, override)
    try:
        return DihtRun.model_validate(value), []
    except ValidationError as error:
        details = error.errors(include_url=False)
        problems = [_problem(tree, detail) for detail in details[:MAX_PROBLEMS]]
        if len(details) > MAX_PROBLEMS:
            problems.append(DocumentProblem(0, "", f"and {len(details) - MAX_PROBLEMS:,} more problems"))
        return None, problems


def warnings(text: str, run: DihtRun) -> list[DocumentProblem]:
    """What is allowed in a valid document and unwise: literals that look like secrets, capabilities without effect."""
    secrets = [
        FieldProblem(
            path, f"{name} looks like a secret: put it into a Secret and refer to it by valueFrom.secretKeyRef"
        )
        for path, name in suspicious(document_of(run))
    ]
    idle = [FieldProblem(path, IDLE_CAPABILITIES) for path in idle_capabilities(run.spec)]
    return located(text, [*secrets, *idle])


def security_demands(text: str, run: DihtRun) -> list[DocumentProblem]:
    """The fields of a valid document that need more of the namespace than Pod Security `restricted`."""
    found = run_demands(run.spec)
    return located(text, [FieldProblem(path, f"needs Pod Security {each.level} ({each.why})") for path, each in found])


def located(text: str, found: Iterable[FieldProblem]) -> list[DocumentProblem]:
    """Problems of fields, each with its line in the document."""
    tree = read_tree(text)
    return [DocumentProblem(tree.line_of(each.field), dotted(each.field), each.message) for each in found]


def read_text(path: str) -> str:
    """The text of a run document's file, or of standard input for `-`.

    Raises:
        UserError: it cannot be read, is not a regular file (a pipe or a device may have no end), is too large or not
            UTF-8.
    """
    try:
        if path == STANDARD_INPUT:
            data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        else:
            mode = os.stat(path).st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise UserError(f"{path} is not a regular file: give a file, or - for standard input")
            with open(path, "rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"cannot read the run document {path}: {reason}: check the path") from error
    if len(data) > MAX_FILE_BYTES:
        raise UserError(f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB: give a run document")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error}): check the file") from error


def load(text: str, *, name: str, overrides: Iterable[str] = ()) -> DihtRun:
    """Read a document or raise.

    Raises:
        UserError: with one line for each problem, `name` standing for the file.
    """
    run, problems = check(text, overrides=overrides)
    if run is None:
        raise UserError("\n".join(f"{name}: {problem}" for problem in problems))
    return run


def canonical_json(value: Any) -> str:
    """One text for equal values: sorted keys, no white space, integral floats as the API server returns them."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def dump(run: DihtRun) -> str:
    """The run as canonical JSON, redacted, without what only repeats a default: newer defaults must not change older
    runs.
    """
    return canonical_json(redacted_document(document_of(run)))


def document_of(run: DihtRun) -> dict[str, Any]:
    """The run as JSON with its literal values: only for pod specs, the API server and redaction."""
    document = run.model_dump(by_alias=True, exclude_defaults=True, exclude={"status"})
    for stage in run.spec.stages:
        pods: Pods | None = getattr(run.spec, stage.value).pods
        if pods is not None:  # an empty list, though a default, replaces the list of `spec.pods`
            document["spec"][stage.value]["pods"] = pods.model_dump(by_alias=True, exclude_unset=True)
    return document


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return _plain(value.model_dump(by_alias=True))
    if is_object(value):
        return {str(key): _plain(item) for key, item in value.items()}
    if is_array(value):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def _apply(document: dict[str, Any], override: str) -> None:
    path, separator, _ = override.partition("=")
    if any(0xD800 <= ord(character) < 0xE000 for character in override):
        raise _wrong_override(override, "not UTF-8 text")
    if not separator or not path:
        raise _wrong_override(override, "write PATH=VALUE, for example train.samples=1000")
    keys = path.removeprefix("spec.").split(".")
    if path.partition(".")[0] in ("apiVersion", "kind", "metadata"):
        raise _wrong_override(override, "only fields of spec are set: edit the document")
    target: Any = document.setdefault("spec", {})
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if is_list(target):
            if not (key.isascii() and key.isdigit() and len(key) < 9) or int(key) >= len(target):
                inside = ".".join(keys[:depth])
                raise _wrong_override(override, f"{inside} is a list of {len(target)}: write an index below that")
            if last:
                target[int(key)] = override_value(override)
            target = target[int(key)]
        elif not is_dict(target):
            raise _wrong_override(override, f"{'.'.join(keys[:depth]) or 'spec'} is not a mapping")
        elif last:
            target[key] = override_value(override)
        else:
            target = target[key] if target.get(key) is not None else _fresh(target, key)


def _wrong_override(override: str, message: str) -> UserError:
    return UserError(f"--set {printable(redacted_override(override))}: {printable(message)}")


def _fresh(target: dict[str, Any], key: str) -> dict[str, Any]:
    target[key] = {}
    return target[key]


def override_value(override: str) -> Any:
    """The value of an override `PATH=VALUE`.

    Raises:
        UserError: it begins like a list, a mapping or a quoted text, and is not YAML.
    """
    text = override.partition("=")[2]
    if not text.startswith(("[", "{", '"', "'")):
        return scalar(text, quoted=False)
    try:
        return read_tree(text).value
    except YamlError as error:
        raise _wrong_override(override, str(error)) from error


def _leading_line(message: str) -> int:
    words = message.split()
    return int(words[1].rstrip(",:")) if words[:1] == ["line"] and words[1].rstrip(",:").isdigit() else 1


def _problem(tree: Tree, detail: Any) -> DocumentProblem:
    path: FieldPath = tuple(part for part in detail["loc"])
    return DocumentProblem(tree.line_of(path), dotted(path), _message(path, detail))


def _message(path: FieldPath, detail: Any) -> str:
    kind, given = detail["type"], detail.get("input")
    if kind == "extra_forbidden":
        known = _known_names(path[:-1])
        names = f"known here: {', '.join(known) or 'none'}"
        return f"unknown key; {suggestion(str(path[-1]), known, names)}"
    if kind == "missing":
        return "is missing: add it"
    if kind == "string_pattern_mismatch" and "x00-\\x1f" in str(detail.get("ctx", {}).get("pattern", "")):
        if in_object_store(str(given)) and not _BUCKET.match(str(given)):
            told = "" if re.search("[:@]", str(given)[5:]) else f"{_short(given)} "  # no credentials
            return f"{told}names no bucket: a name has 3 to 63 lower-case letters, digits, dots and dashes"
        return (
            f"{_short(given)} is neither plain text nor an allowed URI: use s3://bucket/key (or gs://, az://), "
            "file:///path or a path, "
            "without quotes, `$`, `;`, `|`, credentials, queries or control characters"
        )
    if kind == "literal_error":
        words = [word.strip("'") for word in detail["ctx"]["expected"].replace(" or ", ", ").split(", ")]
        hint = suggestion(str(given), words, cutoff=0.5)
        return f"{_short(given)} is not one of {detail['ctx']['expected']}" + (f"; {hint}" if hint else "")
    if kind == "value_error":
        return str(detail["ctx"]["error"])
    shown = REDACTED if holds_literals(path) else _short(given)
    wanted = _expected(kind, detail.get("ctx", {}), _known_names(path))
    if wanted is not None:
        return f"expected {wanted}, got {'nothing' if given is None else shown}"
    return f"{detail['msg'][:1].lower()}{detail['msg'][1:]}, got {shown}"


def _expected(kind: str, context: Mapping[str, Any], known: Sequence[str]) -> str | None:
    """What was expected, to stand after `expected`; None for a kind of error that says it itself.

    Args:
        kind: pydantic's name of the error.
        context: what pydantic says of it: bounds, the pattern.
        known: names of the fields that are known at this place.
    """
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        names = f" (known: {', '.join(known)})" if known else ""
        return f"a mapping, `name: value` lines below this one{names}"
    if kind == "string_pattern_mismatch":
        pattern = str(context.get("pattern", ""))
        if pattern.startswith("^https?://"):
            return "http://HOST or https://HOST, with a port or path where needed"
        return _PATTERNS.get(pattern)
    if kind in _BOUNDS:
        plain = {name: int(value) if _is_whole(value) else value for name, value in context.items()}
        return _BOUNDS[kind].format(**plain)
    return _KINDS.get(kind)


def _is_whole(value: Any) -> bool:
    return isinstance(value, float) and value.is_integer()


def _short(value: Any) -> str:
    """A value for a message; of a mapping or list only what it is, since its parts may be secret."""
    if is_object(value) or is_array(value):
        return "a mapping" if is_object(value) else f"a list of {len(value)}"
    text = redacted_text(json.dumps(value, default=str, ensure_ascii=False))
    return text if len(text) <= 60 else f"{text[:57]}..."


def _known_names(path: FieldPath) -> list[str]:
    """The field names that a model knows at a path, as written in documents."""
    model: Any = DihtRun
    for part in path:
        if isinstance(part, int):
            continue
        field = next((f for n, f in model.model_fields.items() if part in (f.alias, n)), None)
        model = model_in(field.annotation) if field is not None else None
        if model is None:
            return []
    return sorted(field.alias or name for name, field in model.model_fields.items())


def model_in(annotation: Any) -> type[BaseModel] | None:
    """The model in a field's type, also of its items; None where there is none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := model_in(part)) is not None), None)
