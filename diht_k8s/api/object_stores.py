"""The object stores that URIs name by their scheme, and the keys of a Secret with the credentials of each. Pure."""

from __future__ import annotations

from typing import Final

SECRET_KEYS: Final = {
    "s3": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    "gs": ("GOOGLE_CREDENTIALS",),
    "az": ("AZURE_STORAGE_CONNECTION_STRING",),
}
"""Scheme -> keys of a Secret."""


def scheme_of(uri: str) -> str | None:
    """`s3`, `gs` or `az`; None for a path on a disk, and for a scheme that no store has."""
    scheme, separator, _ = uri.partition("://")
    return scheme if separator and scheme in SECRET_KEYS else None


def in_object_store(uri: str) -> bool:
    """Whether a URI names a place in an object store."""
    return scheme_of(uri) is not None


def create_condition(uri: str) -> str:
    """What a store calls the condition of a write that must replace nothing."""
    return "ifGenerationMatch=0" if scheme_of(uri) == "gs" else "If-None-Match"


def credential_variables(prefix: str, index: int) -> dict[str, str]:
    """Key of the Secret -> environment variable that brings it into a pod.

    Args:
        prefix: of the storage rule.
        index: of the rule in `spec.storage`; -1 without a rule.
    """
    keys = SECRET_KEYS[scheme_of(prefix) or "s3"]
    return {key: f"DIHT_STORAGE_{index}_{key.removeprefix('AWS_')}" for key in keys}
