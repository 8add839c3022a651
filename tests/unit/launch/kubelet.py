"""How the kubelet replaces `$(NAME)` in a container's command and environment, as Kubernetes documents it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

INDEX_FIELD = "metadata.annotations['batch.kubernetes.io/job-completion-index']"


def expand(text: str, values: Mapping[str, str]) -> str:
    """`$$` is a dollar sign, `$(NAME)` the value of a known name; everything else stands for itself."""

    def replaced(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return values.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", replaced, text)


def started(container: Mapping[str, Any], index: int) -> tuple[list[str], dict[str, str]]:
    """Command line and environment of the container in the pod of an index."""
    env: dict[str, str] = {}
    for item in container["env"]:
        field = item.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
        env[item["name"]] = str(index) if field == INDEX_FIELD else field or expand(item.get("value", ""), env)
    words = [*container["command"], *container.get("args", [])]
    return [expand(word, env) for word in words], env
