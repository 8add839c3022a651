"""Valid Kubernetes names, made from the names that users choose. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

MAX_NAME: Final = 63
"""Longest DNS label: names of Jobs and Services, host names of pods."""
MAX_ROLE: Final = 20
"""Characters of a role's name in the name of its Job, if an application has several roles."""


def slug(text: str, limit: int = MAX_NAME) -> str:
    """Text as a DNS label that starts with a letter: `Train_ViT.B/16` becomes `train-vit-b-16`."""
    label = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if not label[:1].isalpha():
        label = f"app-{label}".rstrip("-")
    return label[:limit].rstrip("-")


def label_value(text: str) -> str:
    """Text as the value of a label; characters that Kubernetes refuses become dashes."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", text)[:MAX_NAME].strip("_.-")


def unique_name(name: str, token: str, replicas: Sequence[int], *, roles: int = 1) -> str:
    """A name for one submission of an application, short enough for the names of its Jobs and their hosts.

    Args:
        name: the application's name.
        token: makes the name unique; lower-case letters and digits.
        replicas: number of replicas of each role.
        roles: number of roles.
    """
    host = len(f"-{max(replicas) - 1}")
    role = MAX_ROLE + 1 if roles > 1 else 0
    return f"{slug(name, MAX_NAME - host - role - len(token) - 1)}-{token}"


def job_names(name: str, roles: Sequence[str]) -> list[str]:
    """The names of an application's Jobs: its own name if it has one role, else its name and the role's."""
    if len(roles) == 1:
        return [name]
    names: list[str] = []
    for index, role in enumerate(roles):
        candidate = f"{name}-{slug(role, MAX_ROLE)}"
        names.append(f"{name}-{index}" if candidate in names else candidate)
    return names
