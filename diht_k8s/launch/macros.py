"""TorchX's macros, for pods made from one template.

Stock TorchX writes each replica's values into a pod of its own. The pods of an Indexed Job are identical, so the
kubelet fills in what differs: it replaces `$(NAME)` in a pod's command and environment by an environment variable. All
other dollar signs are doubled, so that text arrives unchanged.

In commands, the variable with replica 0's address has a different name in each replica: replica 0 must find "localhost"
in its own, because torchrun hosts the store only on a machine that it recognises as itself, and the DNS name may not
resolve yet.
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
    """A copy of the role with its macros replaced.

    Values that differ between replicas stay marked, for `argument`, `variable` or `raw`.
    """
    return macros.Values(img_root="", app_id=app_id, replica_id=_REPLICA, rank0_env=_RANK0).apply(role)


def argument(text: str) -> str:
    """The text as a word of a pod's command."""
    return _filled(text.replace("$", "$$"), f"{RANK0_VARIABLE}_$({REPLICA_VARIABLE})")


def variable(text: str) -> str:
    """The text as the value of an environment variable of a pod."""
    return _filled(text.replace("$", "$$"), RANK0_VARIABLE)


def raw(value: Any) -> Any:
    """The value as part of a manifest, however nested: Kubernetes' `$(NAME)` keeps its meaning."""
    if isinstance(value, str):
        return _filled(value, RANK0_VARIABLE)
    if isinstance(value, dict):
        return {key: raw(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(raw(item) for item in value)
    return value


def uses_rank0(role: Role) -> bool:
    """Whether a substituted role uses the address of replica 0 anywhere."""
    return any(_RANK0 in text for text in _texts([role.args, role.env, role.metadata]))


def uses_rank0_in_arguments(role: Role) -> bool:
    """Whether a substituted role's command uses the address of replica 0."""
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
