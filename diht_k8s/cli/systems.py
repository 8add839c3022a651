"""What the command says on a system on which it is not tested."""

from __future__ import annotations


def platform_note(platform: str) -> str:
    """What to know on a system that is not Linux: one line, else nothing."""
    if platform == "linux":
        return ""
    return (
        f"diht: tested on Linux only, this is {platform}: check, plan and submit run documents here, and run the recipe in a "
        "container or on a cluster\n"
    )
