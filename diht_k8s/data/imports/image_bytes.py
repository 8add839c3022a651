"""The image of a record as shards hold it: JPEG, PNG and WebP as they are, other formats converted.

AVIF and HEIC without transparency become JPEG of quality 95 without subsampling, because as PNG a photo of a phone takes
20 MB; all else becomes PNG.
"""

from __future__ import annotations

import importlib.util
import io
import warnings
from typing import Final

from PIL import Image, ImageOps

from diht_k8s.api.installation import install_line
from diht_k8s.data.imports.downloads import Download
from diht_k8s.data.imports.records import ImageRecord
from diht_k8s.data.imports.source_files import SourceFile, SourceFileError
from diht_k8s.data.shards.images import BadImageError, check_size, decode, decode_as_reference, in_8_bits
from diht_k8s.data.shards.samples import MAX_MEMBER_BYTES

OTHER_FORMATS: Final = ("BMP", "GIF", "PPM", "TIFF", "AVIF", "HEIF")
"""Formats that shards do not hold."""
LOSSY: Final = ("AVIF", "HEIF")
JPEG: Final = {"quality": 95, "subsampling": 0}
SUFFIXES: Final = ((b"\xff\xd8", "jpg"), (b"\x89PNG", "png"), (b"RIFF", "webp"))
HEIF_MISSING: Final = "heif_package_missing"
"""Why a record is bad: its image is HEIC, and the package that reads it is not installed."""
_HEIF_PACKAGE: Final = "pi_heif"


def heif_advice() -> str:
    """What to do about HEIC where the package is missing."""
    return f"HEIC is read by an optional package: {install_line('heif')}, then start the import again"


def can_read_heif() -> bool:
    """Whether the optional package for HEIC is installed."""
    return importlib.util.find_spec(_HEIF_PACKAGE) is not None


def encode_image(record: ImageRecord, *, strict: bool = False) -> tuple[str, bytes]:
    """Suffix and bytes of a record's image for a shard.

    Args:
        record: of a data set.
        strict: whether the stages of a run will read it, which refuse what is very large or very small; evaluation takes
            images as open_clip does.

    Raises:
        BadImageError: the image is missing, must not be read, is empty or cannot be decoded.
    """
    if callable(record.image):
        return "png", _png(record.image())
    data = _read(record.image)
    if not data:
        raise BadImageError("picture_empty")
    suffix = next((suffix for magic, suffix in SUFFIXES if data.startswith(magic)), None)
    if suffix is not None:
        (decode if strict else decode_as_reference)(data)
    else:
        suffix, data = _converted(data, strict=strict)
    if len(data) > MAX_MEMBER_BYTES:
        raise BadImageError("picture_file_too_large")
    return suffix, data


def _read(image: SourceFile | Download | bytes) -> bytes:
    if isinstance(image, bytes):
        return image
    try:
        return image.read()
    except SourceFileError as error:
        raise BadImageError(f"picture_{error.reason}") from error


def _converted(data: bytes, *, strict: bool) -> tuple[str, bytes]:
    if _is_heif(data):
        if not can_read_heif():
            raise BadImageError(HEIF_MISSING)
        from pi_heif import register_heif_opener  # pyright: ignore[reportMissingImports] # an optional package

        register_heif_opener()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of images that are large, but not refused
            image = Image.open(io.BytesIO(data), formats=OTHER_FORMATS)
            if strict:
                check_size(*image.size)
            image.load()
            if image.format in LOSSY:
                upright = ImageOps.exif_transpose(image)
                return ("png", _png(upright)) if upright.has_transparency_data else ("jpg", _jpeg(upright))
            return "png", _png(image)
    except BadImageError:
        raise
    except Image.DecompressionBombError as error:
        raise BadImageError("picture_too_large") from error
    except Exception as error:  # every decoder has its own errors for damaged files
        raise BadImageError("picture_unreadable") from error


def _is_heif(data: bytes) -> bool:
    """Whether the brands at the begin of a file are those of HEIC, and not of AVIF, which is HEIF as well."""
    if data[4:8] != b"ftyp":
        return False
    size = int.from_bytes(data[:4], "big")
    brands = data[8 : min(size, 256)]
    known = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
    return b"avif" not in brands and b"avis" not in brands and any(brand in brands for brand in known)


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", icc_profile=image.info.get("icc_profile"), **JPEG)
    return buffer.getvalue()


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image = in_8_bits(image)
    mode = image.mode if image.mode in ("L", "RGB", "RGBA") else "RGBA" if image.has_transparency_data else "RGB"
    (image if image.mode == mode else image.convert(mode)).save(buffer, "PNG")
    return buffer.getvalue()
