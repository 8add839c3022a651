"""Small images, near duplicates, painted words and shard bytes."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from examples.build_data import paint, pictures
from examples.build_data.shards import Pair, shard_bytes, write_shards


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def drawing(size: tuple[int, int], box: tuple[int, int, int, int], colour: str = "red") -> Image.Image:
    image = Image.new("RGBA", size, (0, 0, 0, 0))
    ImageDraw.Draw(image).rectangle(box, fill=colour)
    return image


def test_small_image_when_transparent_and_large_then_white_cut_and_96_px() -> None:
    image = pictures.small_picture(png(drawing((400, 400), (100, 100, 299, 199))))
    assert (image.mode, image.size) == ("RGB", (96, 48))
    assert image.getpixel((48, 24)) == (255, 0, 0)


def test_small_image_when_small_then_it_is_not_enlarged() -> None:
    assert pictures.small_picture(png(drawing((60, 60), (10, 10, 29, 39)))).size == (20, 30)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (drawing((50, 50), (0, 0, 49, 49), "white"), "blank"),
        (Image.new("RGBA", (50, 50), (0, 0, 0, 0)), "blank"),
        (drawing((7, 50), (0, 0, 6, 49)), "side_under_8_px"),
        (drawing((400, 50), (0, 20, 399, 24)), "side_under_8_px"),
        (Image.new("1", (16_001, 8)), "side_over_16000_px"),
    ],
)
def test_small_image_when_unusable_then_rejected_with_the_reason(image: Image.Image, reason: str) -> None:
    with pytest.raises(pictures.RejectedImageError, match=reason):
        pictures.small_picture(png(image))


def test_near_duplicates_when_images_differ_slightly_then_paired_and_thin_drawings_not() -> None:
    def thin(y: int) -> Image.Image:
        image = Image.new("RGB", (96, 96), "white")
        ImageDraw.Draw(image).line((5, y, 90, 96 - y), fill="black")
        return image

    disc, other = Image.new("RGB", (96, 96), "orange"), Image.new("RGB", (96, 96), (255, 160, 0))
    thumbnails_ND = np.stack([pictures.thumbnail(image) for image in (disc, other, thin(5), thin(60))])
    assert pictures.near_duplicates(thumbnails_ND, limit=0.1) == [(0, 1)]


@pytest.fixture(scope="module")
def fonts() -> list[ImageFont.FreeTypeFont]:
    default = ImageFont.load_default(size=20)
    assert isinstance(default, ImageFont.FreeTypeFont)
    return [default]


def test_runs_of_words_when_words_are_short_or_empty_of_sense_then_left_out() -> None:
    assert paint.runs_of_words("a cup of green tea in it") == [("green",), ("green", "tea")]


def test_paint_words_when_they_fit_then_record_tells_what_was_painted(fonts: list[ImageFont.FreeTypeFont]) -> None:
    image = Image.new("RGB", (96, 96), "white")
    result = paint.paint_words(image, "green tea", fonts, Random(1))
    assert result is not None
    painted, record = result
    assert "".join(record.words).lower() in {"green", "greentea"}
    assert record.cap_height_px >= 14
    assert painted.size == image.size
    assert painted.tobytes() != image.tobytes()
    assert image.getextrema() == ((255, 255),) * 3  # the given image is as it was


def test_paint_words_when_seeded_alike_then_equal_pixels(fonts: list[ImageFont.FreeTypeFont]) -> None:
    image = Image.new("RGB", (96, 96), "gray")
    first, second = (paint.paint_words(image, "wooden table", fonts, Random(5)) for _ in range(2))
    assert first is not None
    assert second is not None
    assert first[0].tobytes() == second[0].tobytes()


@pytest.mark.parametrize(
    ("caption", "size"), [("cup of tea", (96, 96)), ("green", (30, 96)), ("extraordinarily", (96, 96))]
)
def test_paint_words_when_nothing_fits_then_none(
    caption: str, size: tuple[int, int], fonts: list[ImageFont.FreeTypeFont]
) -> None:
    assert paint.paint_words(Image.new("RGB", size), caption, fonts, Random(1)) is None


PAIRS = [Pair(picture=bytes([i]) * 10, fields={"caption": f"picture {i}"}) for i in range(5)]


def test_shard_bytes_when_written_twice_then_equal_and_without_times() -> None:
    keyed = [(f"{i:06d}", pair) for i, pair in enumerate(PAIRS)]
    data = shard_bytes(keyed)
    assert data == shard_bytes(keyed)
    assert data[4:8] == bytes(4)  # the time in gzip's header
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = tar.getmembers()
    assert [m.name for m in members[:2]] == ["000000.json", "000000.webp"]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members} == {(0, 0, 0, "", "")}


def test_write_shards_when_numbers_do_not_divide_then_all_pairs_are_written_once(tmp_path: Path) -> None:
    (tmp_path / "00009.tar.gz").write_bytes(b"left over from an earlier build")
    total = write_shards(tmp_path, PAIRS, number=3)
    shards = sorted(tmp_path.iterdir())
    assert [s.name for s in shards] == ["00000.tar.gz", "00001.tar.gz", "00002.tar.gz"]
    assert total == sum(s.stat().st_size for s in shards)
    names = []
    for shard in shards:
        with tarfile.open(shard) as tar:
            names += tar.getnames()
    assert names == [f"{i:06d}.{suffix}" for i in range(5) for suffix in ("json", "webp")]
