"""Stage 1, filter: shards in, scores and kept shards out (complexity, action, text spotting).

Users import `CaptionParser` and `TextSpotter` from here. Both are imported lazily and load their models at the first
caption or image.

Where things are, in the order in which a sample passes them:

- `stage` identifies the models behind the scores and runs the stage: workers share the shards, one worker adds up the
  counts and commits.
- `group_filter` claims groups of shards, `shard_filter` filters one shard and writes its kept pairs and scores.
- `rules` decides which samples to keep, takedown lists first. It calls `captions/` (parser), `text_spotting/` (OCR and
  the match with the caption), `fingerprints` (images of benchmarks) and `clip_score` (similarity of image and caption
  by a CLIP model).
- `kept_pairs` holds the kept shards, and what the rules on the whole pool share, which are applied after all shards are
  filtered: `deduplication` drops repeated images (partitions are shared by workers; `minhash_forest` compares the
  images of one), `clip_score` all but the share of the pool with the highest scores.
- `caption_tables` filters tables of URLs and captions, whose images are not downloaded yet.
- `scores` has one row for each sample, `summary` the counts and `report.json`, `group_summaries` the counts of groups.
- `uid_lists` writes the kept pairs as DataComp's list of uids; `stage_progress` reports the progress of the stage.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from diht_k8s.stages.filter.captions.graph import CaptionGraph, describe
    from diht_k8s.stages.filter.captions.parser import CaptionParser
    from diht_k8s.stages.filter.text_spotting.spotter import TextSpotter

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
