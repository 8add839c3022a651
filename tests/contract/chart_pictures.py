"""The four images with captions that `helm test` filters. `python -m tests.contract.chart_pictures` redraws them into
the chart.

A pair of each fate: kept, too simple, without an action, and with its own caption written into the image.
"""

from __future__ import annotations

import gzip
import io
import json
import sys
import tarfile
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from tests.contract.charts import CHART

FILE: Final = CHART / "files/pictures.tar.gz"
CAPTIONS: Final = (
    "a red ball rolls down a steep green hill",
    "ball",
    "a blue square under a yellow sun",
    "a small dog watches a yellow BICYCLE",
)


def picture(number: int) -> bytes:
    """What the caption of that number says, more or less, as WebP."""
    image = Image.new("RGB", (160, 96), "white")
    draw = ImageDraw.Draw(image)
    if number in (0, 1):
        draw.polygon([(0, 40), (160, 96), (0, 96)], fill="green")
        draw.ellipse((60, 20, 100, 60), fill="red")
    elif number == 2:
        draw.rectangle((20, 50, 60, 90), fill="blue")
        draw.ellipse((110, 5, 140, 35), fill="yellow")
    else:
        draw.text((8, 30), "BICYCLE", fill="black", font=ImageFont.load_default(32))
    file = io.BytesIO()
    image.save(file, "WEBP", lossless=True)
    return file.getvalue()


def shard() -> bytes:
    """A shard of the four; the same bytes each time."""
    file = io.BytesIO()
    with gzip.GzipFile(fileobj=file, mode="wb", mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for number, caption in enumerate(CAPTIONS):
            text = json.dumps({"caption": caption, "uid": f"helm-test-{number}"}).encode()
            for name, data in ((f"{number}.json", text), (f"{number}.webp", picture(number))):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


if __name__ == "__main__":
    sys.stdout.write(f"{FILE.relative_to(CHART)}: {FILE.write_bytes(shard())} bytes\n")
