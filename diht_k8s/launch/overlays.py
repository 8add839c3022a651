"""Overlays in files and overlays of the whole application, merged into its roles."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from torchx.specs import AppDef, Role
from torchx.specs.overlays import get_overlay, set_overlay

NAMESPACE: Final = "kubernetes"
KINDS: Final = ("V1Pod", "V1Container", "V1Job")


def with_overlays(app: AppDef) -> AppDef:
    """A copy of the application whose roles carry all overlays that apply to them.

    TorchX's command puts `--metadata kubernetes=FILE` into the application, which stock schedulers ignore.
    """
    return replace(app, roles=[_with_overlays(app, role) for role in app.roles])


def _with_overlays(app: AppDef, role: Role) -> Role:
    copy = replace(role, metadata={key: value for key, value in role.metadata.items() if key != NAMESPACE})
    for kind in KINDS:
        for source in (app, role):
            if overlay := _overlay(source, kind):
                set_overlay(copy, NAMESPACE, kind, overlay)
    return copy


def _overlay(source: AppDef | Role, kind: str) -> dict[str, Any]:
    """The overlay of a kind; one without a kind applies to the pod."""
    return get_overlay(source, NAMESPACE, kind, flat_fallback=kind == "V1Pod")
