"""What a field of a run document expects, in words: pydantic's kinds of errors and our patterns in, sentences out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

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
    "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$": "lower-case letters, digits and dashes",
    "^[A-Za-z0-9_.-]+$": "letters, digits, dots, dashes and underscores",
    "^[A-Za-z_][A-Za-z0-9_]*$": "letters, digits and underscores, beginning with no digit",
    "^[A-Z_]+$": "upper-case letters and underscores, such as IPC_LOCK",
    "^[^:]+$": "a path without a colon",
    r"^[^\x00-\x1f\x7f]*$": "one line of text without control characters",
}


def expected(kind: str, context: Mapping[str, Any], known: Sequence[str]) -> str | None:
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
