"""Export: the trained towers in open_clip's layout (safetensors and configuration), with the concept heads beside.

The model's card has training data, filter, numbers and licences.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from safetensors.torch import save
from torch import Tensor

from diht_k8s.api.hashing import result_fields
from diht_k8s.api.layout import Layout, join
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.commit import find_committed
from diht_k8s.stages.train.data.normalisation import CLIPS, Normalisation

FILES = ("model/open_clip_config.json", "model/open_clip_model.safetensors", "concept_heads.safetensors")


@dataclass(frozen=True)
class ModelDescription:
    """What open_clip needs beside the weights."""

    config: Mapping[str, Any]
    """open_clip's `model_cfg`."""
    normalisation: Normalisation = CLIPS

    def document(self) -> dict[str, Any]:
        """The content of `open_clip_config.json`."""
        vision = {key: value for key, value in self.config["vision_cfg"].items() if key != "patch_dropout"}
        seen = self.normalisation.preprocessing()
        return {"model_cfg": {**self.config, "vision_cfg": vision}, "preprocess_cfg": seen}


def export(storage: Storage, layout: Layout, model: ModelDescription, state: Mapping[str, Tensor]) -> list[str]:
    """Write the model; returns the paths relative to the stage's folder.

    `open_clip.create_model_and_transforms("local-dir:FOLDER/model")` loads it, in training mode.
    """
    towers, heads = {}, {}
    for key, value in state.items():
        name = key.removeprefix("buffer|")
        if name.startswith("clip.") and "|" not in name:
            towers[name.removeprefix("clip.")] = value.squeeze(0) if name == "clip.logit_scale" else value
        elif name.startswith(("object_head.", "attribute_head.")) and "|" not in name:
            heads[name] = value
    towers.pop("attn_mask", None)
    contents = [json.dumps(model.document(), indent=1).encode(), save(_contiguous(towers)), save(_contiguous(heads))]
    written = [name for name in FILES if heads or name != FILES[2]]
    for name, content in zip(FILES, contents, strict=True):
        if name in written:
            storage.write_bytes(join(layout.stage(Stage.TRAIN), name), content)
    return written


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.contiguous() for key, value in tensors.items()}


PATH = "model/README.md"
FRONT = {
    "library_name": "open_clip",
    "pipeline_tag": "zero-shot-image-classification",
    "tags": ["clip", "diht"],
    "license": "other",
}
LICENCES = """\
- **Images and captions**: those of the sources above. This card cannot know them: see where the data comes from before
  you pass the model on.
- **Teacher** of the concept labels: {teacher}. Its weights have a licence of their own, which may bind what is trained
  on its labels.
- **Programs**: diht-k8s Apache-2.0, open_clip MIT, spaCy's en_core_web_sm MIT, RapidOCR's detector and recogniser
  Apache-2.0."""
USE = """\
```python
import open_clip
import torch
from PIL import Image

place = "local-dir:MODEL_FOLDER"  # the folder of this file
model, _, preprocess = open_clip.create_model_and_transforms(place)
model.eval()  # it comes in training mode, where BatchNorm and dropout change the embeddings
tokenizer = open_clip.get_tokenizer(place)

captions = ["a photo of a dog", "a photo of a boat"]
pixels = preprocess(Image.open("IMAGE_FILE")).unsqueeze(0)
with torch.no_grad():
    image = model.encode_image(pixels, normalize=True)
    texts = model.encode_text(tokenizer(captions), normalize=True)
    probabilities = (model.logit_scale.exp() * image @ texts.T).softmax(dim=-1)
for caption, probability in zip(captions, probabilities[0].tolist()):
    print(f"{probability:.3f} {caption}")
```"""


def write_card(
    storage: Storage, layout: Layout, run: DihtRun, config: Mapping[str, Any], summary: Mapping[str, Any]
) -> str:
    """Write the card; its path relative to the stage's folder."""
    counts = None
    if (filtered := find_committed(storage, layout, Stage.FILTER)) is not None:
        counts = filtered.summary.get("counts")
    text = card(run, config, summary, counts)
    storage.write_bytes(join(layout.stage(Stage.TRAIN), PATH), text.encode())
    return PATH


def card(run: DihtRun, config: Mapping[str, Any], summary: Mapping[str, Any], counts: Mapping[str, Any] | None) -> str:
    """The card's Markdown. Pure.

    Args:
        run: the run document.
        config: the model's open_clip configuration.
        summary: of the training: samples, steps, seconds, loss.
        counts: the filter's: input, kept, dropped by reason, bad by reason; None without a filter.
    """
    name = run.training.model or "CLIP"
    parts = [
        f"---\n{yaml.safe_dump(FRONT, sort_keys=False)}---\n# {name}",
        f"A CLIP model trained by the DiHT recipe (arXiv 2301.02280) with diht-k8s: {summary['samples']:,} samples "
        f"in {summary['steps']:,} "
        f"steps, {_hours(summary['seconds'])}; contrastive loss with hard negatives, first "
        f"{summary['loss']['first']}, last {summary['loss']['last']}. {_exported(summary.get('interpolation'))}",
        f"## Use\n{USE}\n"
        "For research on image-text models. Trained on captions from the web it repeats their errors and prejudices; "
        "measure it on your own "
        "data before you rely on it. The concept heads of the training are not part of it.",
        f"## Data\n{_data(run)}",
        f"### What the filter kept\n{_funnel(counts)}",
        f"## Training\n{_code(result_fields(run.training), 'yaml')}\nSeed {run.spec.training_seed}. What is not "
        "named has the default of the API "
        "reference (docs/api.md).",
        f"### Architecture\n{_code(config, 'json')}",
        f"## Licences\n{LICENCES.format(teacher=_teacher(run))}",
    ]
    return "\n\n".join(parts) + "\n"


def _exported(interpolation: Mapping[str, Any] | None) -> str:
    """Which weights these are, and why."""
    if interpolation is None:
        return "These are its last weights; no held-out pairs chose between them and the first ones."
    tried = ", ".join(f"{share} finds {recall} %" for share, recall in interpolation["recall_at_5"].items())
    return (
        f"These weights lie at {interpolation['share']:g} of the way from its first (0) to its last (1): they find the "
        f"most held-out pairs within five ({tried}{_gained(interpolation.get('gain'))})."
    )


def _gained(gain: Mapping[str, Any] | None) -> str:
    if gain is None:
        return ""
    low, high = gain["interval"]
    return f"; {gain['value']:+g} points over its first, {low:+g} to {high:+g}, on the pairs that chose"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.1f} minutes"


def _data(run: DihtRun) -> str:
    lines = [
        f"- **{source.name}**: {', '.join(f'`{uri}`' for uri in source.shards or ())}"
        for source in run.spec.data.sources
    ]
    if run.training.shards:
        lines.append(
            f"- trained on {', '.join(f'`{uri}`' for uri in run.training.shards)} in place of what the filter kept"
        )
    return "\n".join(lines)


def _funnel(counts: Mapping[str, Any] | None) -> str:
    if counts is None:
        return "This run had no filter of its own."
    rows = [("read", counts["input"])]
    rows += [(f"dropped: {reason}", -number) for reason, number in counts["dropped"].items()]
    rows += [(f"unusable: {reason}", -number) for reason, number in counts["bad"].items()]
    rows.append(("kept", counts["kept"]))
    return "| pairs | |\n|---|---:|\n" + "\n".join(f"| {what} | {number:,} |" for what, number in rows)


def _teacher(run: DihtRun) -> str:
    if not run.training.distillation.reads_labels:
        return "none, this run did not distil"
    if run.spec.label is None:
        return f"that of the labels `{run.training.labels}`"
    return f"`{run.spec.label.teacher.model}`"


def _code(value: Mapping[str, Any], language: str) -> str:
    text = json.dumps(value, indent=1) if language == "json" else yaml.safe_dump(dict(value), sort_keys=False)
    return f"```{language}\n{text.strip()}\n```"
