"""Stage 1, filter: shards in, scores and kept shards out (complexity, action, text spotting).

`CaptionParser` and `TextSpotter` are what users take from here; they are imported when asked for, and load their models at the
first caption or image.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from diht_k8s.recipe.filter.captions.graph import CaptionGraph, describe
    from diht_k8s.recipe.filter.captions.parser import CaptionParser
    from diht_k8s.recipe.filter.text_spotting.spotter import TextSpotter

__all__ = ["CaptionGraph", "CaptionParser", "TextSpotter", "describe"]

_MODULES: Final = {
    "CaptionGraph": "captions.graph",
    "describe": "captions.graph",
    "CaptionParser": "captions.parser",
    "TextSpotter": "text_spotting.spotter",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
