"""An API server that answers by a script."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any


class Response:
    def __init__(self, data: Any, blocks: list[bytes] | None = None) -> None:
        self.data, self._blocks, self.closed = json.dumps(data).encode(), blocks or [], False

    def stream(self, size: int, decode_content: bool = True) -> Iterator[bytes]:
        yield from self._blocks

    def close(self) -> None:
        self.closed = True


def page(*documents: dict[str, Any], token: str = "", version: str = "10") -> Response:
    return Response({"items": list(documents), "metadata": {"resourceVersion": version, "continue": token}})


def watch(*events: tuple[str, dict[str, Any]]) -> Response:
    text = b"".join(json.dumps({"type": kind, "object": item}).encode() + b"\n" for kind, item in events)
    return Response({}, [text[:7], text[7:40], text[40:]])


class Script:
    """Answers in order; an exception is raised."""

    def __init__(self, *answers: Response | Exception) -> None:
        self.answers, self.asked = list(answers), list[dict[str, Any]]()

    def __call__(self, **options: Any) -> Response:
        self.asked.append(options)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer
