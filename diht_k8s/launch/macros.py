"""TorchX's macros, for pods that are made from one template.

Stock TorchX writes each replica's own values into a pod of its own. The pods of an Indexed Job are equal, so what differs between
them is filled in by the kubelet, which replaces `$(NAME)` by an environment variable in a pod's command and environment. All other
dollar signs are doubled, so that text arrives as it was written.

Replica 0's address has a name of its own for each replica where a shell reads it: replica 0 must find "localhost" there, because
torchrun hosts the store only where it recognises itself, and its DNS name may not be known yet when it looks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from torchx.specs import Role, macros

REPLICA_VARIABLE: Final = "TORCHX_REPLICA_ID"
RANK0_VARIABLE: Final = "TORCHX_RANK0_HOST"
_REPLICA: Final = "\ue000"
_RANK0: Final = "\ue001"


def substituted(role: Role, app_id: str) -> Role:
    """A copy of the role with its macros replaced; what differs between replicas stays marked until `argument`, `variable` or `raw`."""
    return macros.Values(img_root="", app_id=app_id, replica_id=_REPLICA, rank0_env=_RANK0).apply(role)


def argument(text: str) -> str:
    """A word of a pod's command."""
    return _filled(text.replace("$", "$$"), f"{RANK0_VARIABLE}_$({REPLICA_VARIABLE})")


def variable(text: str) -> str:
    """The value of an environment variable of a pod."""
    return _filled(text.replace("$", "$$"), RANK0_VARIABLE)


def raw(value: Any) -> Any:
    """A piece of a manifest, in any nesting: Kubernetes' own `$(NAME)` keeps its meaning there."""
    if isinstance(value, str):
        return _filled(value, RANK0_VARIABLE)
    if isinstance(value, dict):
        return {key: raw(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(raw(item) for item in value)
    return value


def asks_rank0(role: Role) -> bool:
    """Whether a substituted role names replica 0 anywhere."""
    return any(_RANK0 in text for text in _texts([role.args, role.env, role.metadata]))


def asks_rank0_in_arguments(role: Role) -> bool:
    """Whether a substituted role's command names replica 0."""
    return any(_RANK0 in text for text in role.args)


def _filled(text: str, rank0: str) -> str:
    return text.replace(_REPLICA, f"$({REPLICA_VARIABLE})").replace(_RANK0, rank0)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _texts(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
