"""DiHT (arXiv 2301.02280) as one resource: CAT filter, concept labels, training and evaluation, from a laptop to a GPU
cluster.

What users import stands here by name: `from diht_k8s import hn_nce_loss, CaptionParser, TextSpotter, load_model`. Each
name is imported when it is asked for, so that `import diht_k8s` needs neither torch nor spaCy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from diht_k8s.models.loading import load_model
    from diht_k8s.outputs.open_pairs import open_pairs
    from diht_k8s.stages.filter import CaptionParser, TextSpotter
    from diht_k8s.stages.train.loss.losses import hn_nce_loss

__all__ = ["CaptionParser", "TextSpotter", "hn_nce_loss", "load_model", "open_pairs"]
__version__ = "0.1.0"

_MODULES: Final = {
    "CaptionParser": "stages.filter",
    "TextSpotter": "stages.filter",
    "hn_nce_loss": "stages.train.loss.losses",
    "load_model": "models.loading",
    "open_pairs": "outputs.open_pairs",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
