"""Features of a model's folder by `transformers` itself: a program of its own, since open_clip would import it too.

python transformers_features.py INPUT.npz MODEL...: writes MODEL/features.npz
"""

import sys

import numpy as np
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer


def main(given: str, *folders: str) -> None:
    for folder in folders:
        write_features(given, folder)


def write_features(given: str, folder: str) -> None:
    """Write features of images and texts, the pixels that the processor makes and the logits."""
    inputs = np.load(given)
    model, info = CLIPModel.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    tokenizer, processor = CLIPTokenizer.from_pretrained(folder), CLIPImageProcessorPil.from_pretrained(folder)
    texts = tokenizer([*map(str, inputs["texts"])], padding=True, truncation=True, return_tensors="pt")
    pixels = processor([Image.fromarray(image) for image in inputs["images"]], return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        both = model.eval()(**texts, pixel_values=pixels)
    np.savez(
        f"{folder}/features.npz",
        image=both.image_embeds,
        text=both.text_embeds,
        pixels=pixels,
        logits=both.logits_per_image,
        tokens=texts["input_ids"],
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
