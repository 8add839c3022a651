"""Text of programs and clusters as a status holds it: one line, no control characters, limited length. Pure."""

from __future__ import annotations

import re
from typing import Final

LINE_LIMIT: Final = 1024
"""Maximum length of a message in the CRD."""
TAIL_LINES: Final = 20
TAIL_WIDTH: Final = 256
_ESCAPES: Final = re.compile(r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-_]")
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def plain(text: str) -> str:
    """Text without terminal escapes and control characters, one space between words."""
    return " ".join(_CONTROLS.sub(" ", _ESCAPES.sub("", text)).split())


def one_line(text: str, limit: int = LINE_LIMIT) -> str:
    """Text as one plain line of at most `limit` characters."""
    line = plain(text)
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


def last_line(text: str) -> str:
    """The last line that is not empty, plain."""
    return next((line for line in map(one_line, reversed(text.split("\n"))) if line), "")


def tail(text: str) -> list[str]:
    """The last lines of a log, plain, each cut to what a status holds."""
    lines = [line for line in (one_line(line, TAIL_WIDTH) for line in text.split("\n")) if line]
    return lines[-TAIL_LINES:]
