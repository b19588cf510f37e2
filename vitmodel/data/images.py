"""Checks encoded images before they are packed: an allowed format, within the limits, decodable to the last byte.

Damage that leaves a valid code stream (JPEG and lossy WebP have no checksums) cannot be detected before packing; afterwards
the shards' checksums detect it. No decoder here can run code from a file: Pillow may try the three allowed formats only.
"""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}  # allowed formats by Pillow's name, and the extension in a shard
MAX_PIXELS = 2**26
MAX_BYTES = 2**28
PNG_END = b"IEND\xaeB`\x82"
JPEG_QUALITY = 95  # of images that are resized; all others keep their bytes


class CheckedImage(NamedTuple):
    """An encoded image that has been decoded once, strictly."""

    data: bytes
    extension: str
    width: int
    height: int


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """A grey or RGB image as PNG, lightly compressed: decoding speed matters more than size."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def check_image(data: bytes, resize: int | None = None) -> CheckedImage:
    """Decode an image completely. With `resize`, a shorter side of more pixels than that is reduced to it.

    The bytes are unchanged unless the image is resized. Raises ValueError with the reason.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"{len(data)} bytes; the limit is {MAX_BYTES}")
    try:
        with Image.open(io.BytesIO(data), formats=tuple(EXTENSIONS)) as image:
            kind, (width, height) = str(image.format), image.size
            if width * height > MAX_PIXELS:  # from the header: nothing is decoded yet
                raise ValueError(f"{width} x {height} pixels; the limit is {MAX_PIXELS} in total")
            if kind == "JPEG":
                _decode_jpeg(data)
            if kind == "PNG":
                _check_chunks(data)
            if resize is not None and min(width, height) > resize:
                data, width, height = _shrink(image, kind, resize)
            elif kind != "JPEG":
                image.load()
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from None
    except UnidentifiedImageError:
        raise ValueError(f"not a {', '.join(EXTENSIONS)} image") from None
    except (OSError, SyntaxError) as error:  # SyntaxError: Pillow's error for a damaged PNG chunk
        raise ValueError(f"not a readable image: {error}") from None
    return CheckedImage(data, EXTENSIONS[kind], width, height)


def _check_chunks(data: bytes) -> None:
    """Check the checksums of all chunks and the end chunk: loading the pixels stops earlier."""
    if PNG_END not in data:
        raise ValueError("truncated: no end chunk")
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        image.verify()


def _decode_jpeg(data: bytes) -> None:
    """Raise ValueError for a damaged scan. Pillow would fill the rest with grey; this decoder, when strict, does not."""
    *_, colours, _ = simplejpeg.decode_jpeg_header(data)
    target = "CMYK" if colours in ("CMYK", "YCCK") else "GRAY" if colours in ("Gray", "GRAY") else "RGB"
    simplejpeg.decode_jpeg(data, colorspace=target, strict=True)


def _shrink(image: Image.Image, kind: str, side: int) -> tuple[bytes, int, int]:
    scale = side / min(image.size)
    size = (max(side, round(image.width * scale)), max(side, round(image.height * scale)))
    small = image.convert("L" if image.mode == "L" else "RGB").resize(size, Image.Resampling.BICUBIC)
    if kind == "PNG":
        return encode_png(np.asarray(small)), *size
    buffer = io.BytesIO()
    small.save(buffer, format=kind, quality=JPEG_QUALITY)
    return buffer.getvalue(), *size
