"""YAML as the Kubernetes API server reads it, with the line of every field.

PyYAML's own rules differ where people notice it: it reads `5e-4` and `1e6` as text, the API server as numbers. A run
must mean the same from a file and from the cluster, so scalars are resolved here by the API server's rules (YAML 1.1 as
its library reads it: `yes`, `on`, `y` are true; `1.0` becomes the integer 1 on its way through JSON).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Final

import yaml

from diht_k8s.api.base import FieldPath

_TRUE: Final = frozenset({"y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"})
_FALSE: Final = frozenset({"n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"})
_NULL: Final = frozenset({"", "~", "null", "Null", "NULL"})
_FLOAT: Final = re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$")
_INT: Final = re.compile(r"^[-+]?(0b_*[01][01_]*|0o_*[0-7][0-7_]*|0[0-7_]*|0x_*[0-9a-fA-F][0-9a-fA-F_]*|[0-9][0-9_]*)$")
_TAG: Final = "tag:yaml.org,2002:"
_STRING_TAG: Final = f"{_TAG}str"
_MERGE_TAG: Final = f"{_TAG}merge"
_PLAIN: Final = "plain"
"""Stands for the tag of a scalar without quotes and without a tag."""
_TYPES: Final = {f"{_TAG}int": int, f"{_TAG}float": int | float, f"{_TAG}bool": bool, f"{_TAG}null": type(None)}
"""What a scalar with one of these tags must be by the rules of `scalar`."""
_NAMES: Final = re.compile(r"(undefined alias|undefined tag handle|duplicate tag handle) .*", re.DOTALL)
"""What a library's message shows of the text: a secret that begins with * or ! and has no quotes is an alias or a
tag."""
_SAID: Final = {
    "found character '\\t' that cannot start any token": "a tab: indent by spaces",
    "but found another document": "another document begins: a file holds one, remove what follows ---",
}
"""A library's message -> what it means to a user."""
_TABS: Final = re.compile(r"^\t+", re.MULTILINE)
MAX_NODES: Final = 200_000
"""Aliases of aliases can expand to more than any machine holds; the largest run that the schema allows has fewer."""
MAX_INT_CHARACTERS: Final = 300
"""No number of 64 bits takes as many; longer ones are read as floats, as the API server does."""
MAX_KEY_CHARACTERS: Final = 1024
"""YAML has no longer keys in one line; JSON has, and a dump must be readable again."""
_SEPARATORS: Final = ("\x85", "\u2028", "\u2029")
"""End a line in YAML, but not in JSON."""
MAX_BYTES: Final = 1 << 20
"""etcd takes 1.5 MiB; a larger document could not be submitted anyway."""


class _Loader(yaml.SafeLoader):
    """Leaves scalars to the rules below: a node's tag says whether it was quoted, or which tag the text has."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> Any:
        """The tag of a node that has none in the text."""
        if kind is not yaml.ScalarNode or (value == "<<" and implicit[0]):
            return super().resolve(kind, value, implicit)  # pyright: ignore
        return _PLAIN if implicit[0] else _STRING_TAG


class YamlError(ValueError):
    """The text is not YAML or not a mapping; the message names line and column."""


@dataclass(frozen=True)
class Tree:
    """A YAML document and the lines of its fields."""

    value: Any
    """plain dicts, lists, strings, numbers, booleans and None."""
    lines: dict[FieldPath, int]
    """line (from 1) of each field and list item."""

    def line_of(self, path: FieldPath) -> int:
        """The line of a field, or of the nearest field around it that the text has."""
        while path not in self.lines and path:
            path = path[:-1]
        return self.lines.get(path, 1)


def read_tree(text: str) -> Tree:
    """Read one YAML (or JSON) document.

    Raises:
        YamlError: not YAML, more than one document, a duplicate key, too large.
    """
    if len(text) > MAX_BYTES:
        raise YamlError(f"the document has {len(text)} characters, at most {MAX_BYTES} are allowed")
    if text.lstrip().startswith("{"):  # JSON may be indented by tabs
        text = _TABS.sub(lambda found: "  " * len(found[0]), text)
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlError(f"line {line}: the character {text[error.position]!a} is not allowed in YAML") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: column {mark.column + 1}: " if mark else ""
        said = getattr(error, "problem", None) or str(error)
        raise YamlError(f"{where}{_SAID.get(said) or _NAMES.sub(_unnamed, said)}") from error
    except RecursionError as error:
        raise YamlError("the document is nested deeper than 100 levels") from error
    lines: dict[FieldPath, int] = {}
    if node is not None and _count(node, {}) > MAX_NODES:
        raise YamlError(f"the document's aliases expand to more than {MAX_NODES} values: write fewer")
    value = None if node is None else _build(node, (), lines, 0)
    return Tree(value, lines)


def _unnamed(found: re.Match[str]) -> str:
    """A library's message without a name that may be a secret."""
    return f"{found[1]}: quote a value that begins with {'*' if 'alias' in found[1] else '!'}"


def _build(node: yaml.Node, path: FieldPath, lines: dict[FieldPath, int], depth: int) -> Any:
    lines.setdefault(path, node.start_mark.line + 1)
    if depth > 100:
        raise YamlError(f"line {node.start_mark.line + 1}: nested deeper than 100 levels")
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, lines, depth)
    if isinstance(node, yaml.SequenceNode):
        _check_tag(node, f"{_TAG}seq")
        return [_build(item, (*path, index), lines, depth + 1) for index, item in enumerate(node.value)]
    _check_tag(node, _PLAIN, _STRING_TAG, _MERGE_TAG, *_TYPES)
    value = scalar(_characters(node), quoted=node.tag == _STRING_TAG)
    if node.tag in _TYPES and not isinstance(value, _TYPES[node.tag]):
        kind = node.tag.removeprefix(_TAG)
        raise YamlError(f"line {node.start_mark.line + 1}: the value is no {kind}, as its tag !!{kind} says")
    return value


def _check_tag(node: yaml.Node, *allowed: str) -> None:
    if node.tag not in allowed:
        line = node.start_mark.line + 1
        raise YamlError(f"line {line}: a tag is not allowed here: leave it out, or quote a value that begins with !")


def _characters(node: yaml.Node) -> str:
    """The text of a scalar; JSON writes a character beyond 16 bits as two escapes, a surrogate pair."""
    try:
        return str(node.value).encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError as error:
        line = node.start_mark.line + 1
        raise YamlError(f"line {line}: half a surrogate pair is not a character: write both escapes") from error


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """The number of values that a node expands to with its aliases; `known` holds the nodes counted before."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = MAX_NODES + 1  # an alias inside its own anchor never ends
    pairs: list[yaml.Node | tuple[yaml.Node, ...]] = node.value
    parts = [part for pair in pairs for part in (pair if isinstance(pair, tuple) else (pair,))]
    known[id(node)] = 1 + sum(_count(part, known) for part in parts)
    return known[id(node)]


def _mapping(node: yaml.MappingNode, path: FieldPath, lines: dict[FieldPath, int], depth: int) -> dict[str, Any]:
    result: dict[str, Any] = {}
    merged: dict[str, Any] = {}
    _check_tag(node, f"{_TAG}map")
    for key_node, value_node in node.value:
        if key_node.tag == _MERGE_TAG:
            merged = _merged(value_node, path, lines, depth) | merged
            continue
        name, line = _key(key_node), key_node.start_mark.line + 1
        if name in result:
            raise YamlError(f"line {line}: the key {name!r:.60} appears twice in one mapping")
        lines[(*path, name)] = line
        result[name] = _build(value_node, (*path, name), lines, depth + 1)
    return merged | result


def _key(node: yaml.Node) -> str:
    """The text of a key; a boolean without quotes is `true` or `false`, as in JSON."""
    if not isinstance(node, yaml.ScalarNode):
        raise YamlError(f"line {node.start_mark.line + 1}: a key must be text, not a list or a mapping")
    _check_tag(node, _PLAIN, _STRING_TAG, *_TYPES)
    text = _characters(node)
    if len(text) > MAX_KEY_CHARACTERS or any(separator in text for separator in _SEPARATORS):
        line = node.start_mark.line + 1
        raise YamlError(f"line {line}: a key has at most {MAX_KEY_CHARACTERS:,} characters and no line separators")
    key = scalar(text, quoted=node.tag == _STRING_TAG)
    return str(key).lower() if isinstance(key, bool) else text


def _merged(node: yaml.Node, path: FieldPath, lines: dict[FieldPath, int], depth: int) -> dict[str, Any]:
    """What `<<: *anchor` or `<<: [*one, *other]` adds; earlier mappings win over later ones, own keys over all."""
    result: dict[str, Any] = {}
    for part in node.value if isinstance(node, yaml.SequenceNode) else [node]:
        if not isinstance(part, yaml.MappingNode):
            raise YamlError(f"line {part.start_mark.line + 1}: << takes a mapping or a list of mappings")
        result = _mapping(part, path, lines, depth + 1) | result
    return result


def scalar(text: str, *, quoted: bool) -> Any:
    """The value of a scalar by the API server's rules."""
    if quoted:
        return text
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if len(text) <= MAX_INT_CHARACTERS and _INT.match(text):
        return _integer(text.replace("_", ""))
    if _FLOAT.match(text) and math.isfinite(number := float(text)):
        return through_json(number)
    return text


def _integer(text: str) -> int:
    sign = -1 if text.startswith("-") else 1
    digits = text.lstrip("+-")
    if digits.lower().startswith(("0b", "0x", "0o")):
        return sign * int(digits, 0)
    if len(digits) > 1 and digits.startswith("0") and not set(digits) & set("89"):
        return sign * int(digits, 8)
    return sign * int(digits)


def through_json(number: float) -> int | float:
    """A number after the API server's JSON: integral ones come back as integers."""
    return int(number) if math.isfinite(number) and number.is_integer() and abs(number) < 2**53 else number
