"""Images as tensors, fast: the usual kinds by torchvision.io, which needs half the time of PIL, all others by PIL.

In: an image's encoded bytes. Out: the pixels and errors of `images.decode`. The header is read first, by PIL, so size
limits hold before anything is decoded. Whatever torchvision would decode differently goes to PIL: CMYK, palettes,
transparency, 16 bits, interlacing, animations, images that are stored rotated; so does whatever torchvision refuses, so
that PIL decides whether the image is bad.
"""

from __future__ import annotations

import io
import warnings
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

from diht_k8s.data.shards.images import FORMATS, BadImageError, check_size, decode

# Shape legend: C channels (3), H height, W width.

ORIENTATION: Final = 0x0112
"""EXIF's tag for how the camera was held."""


def decode_pixels(data: bytes) -> Tensor:
    """The image as upright RGB: uint8, C x H x W, channels last in memory (see `images.decode` for the steps).

    Raises:
        BadImageError: unreadable, too large or too small.
    """
    if _is_plain(data):
        try:
            return decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
        except RuntimeError:
            pass  # PIL is more lenient in places, and its result counts
    pixels_HWC = np.asarray(decode(data))
    return torch.from_numpy(pixels_HWC.copy()).permute(2, 0, 1)


def _is_plain(data: bytes) -> bool:
    """Whether torchvision gives PIL's pixels for this header; False also where PIL refuses it.

    Raises:
        BadImageError: too large or too small.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            check_size(*image.size)
            return (
                image.mode == "RGB"
                and image.format in FORMATS
                and "transparency" not in image.info
                and getattr(image, "n_frames", 1) == 1
                and not (image.format == "PNG" and _is_deep_or_interlaced(data))
                and image.getexif().get(ORIENTATION, 1) == 1
            )
    except BadImageError:
        raise
    except Exception:  # PIL hits the same error in `decode`, which gives it a reason
        return False


def _is_deep_or_interlaced(png: bytes) -> bool:
    """Whether a PNG's header says more than 8 bits or interlaced (bytes 24 and 28 of the file)."""
    return png[24] != 8 or png[28] != 0
