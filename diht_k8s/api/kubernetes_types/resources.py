"""What a container may ask for, by name, as Kubernetes' API server takes it. Pure."""

from __future__ import annotations

from typing import Final

from diht_k8s.api.kubernetes_types.field_bounds import QUALIFIED
from diht_k8s.api.kubernetes_types.quantities import number_of

STANDARD: Final = ("cpu", "memory", "ephemeral-storage")
HUGE_PAGES: Final = "hugepages-"


def resource_problem(name: str, amount: str | int) -> str | None:
    """What is wrong with a request; None where nothing is.

    Args:
        name: of the resource.
        amount: a valid quantity.
    """
    if name in STANDARD:
        return None
    if name.startswith(HUGE_PAGES):
        return _huge_page_problem(name, amount)
    if "/" not in name or name.startswith("requests.") or len(name) > 240 or not QUALIFIED.matches(name):
        return f"{name[:80]} is no resource: write {', '.join(STANDARD)}, hugepages-SIZE or DOMAIN/NAME, such as nvidia.com/gpu"
    if not number_of(amount).is_integer() or number_of(amount) >= 2**63:
        return f"{name} is counted: {amount} is not a whole number, or too large"
    return None


def _huge_page_problem(name: str, amount: str | int) -> str | None:
    try:
        size = number_of(name.removeprefix(HUGE_PAGES))
    except ValueError:
        return f"{name} names no size of pages: write for example hugepages-2Mi"
    if size <= 0 or number_of(amount) % size or number_of(amount) >= 2**63:
        return f"{amount} is no multiple of the page size of {name}, or too large: correct it"
    return None
