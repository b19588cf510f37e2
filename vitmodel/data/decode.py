"""Decodes encoded images strictly: formats of an allow-list only, within limits that are checked in the header.

Every damaged file raises DecodeError; none gives partly grey pixels. JPEG is decoded by libjpeg-turbo (simplejpeg), plain PNG
by OpenCV or, if it is small, by kornia, every other allowed kind by Pillow. All but kornia release the interpreter lock.

Shapes: images are uint8 (H, W, 3); a box is (left, top, width, height) in pixels of the stored image.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import NamedTuple

import cv2
import kornia_rs
import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from vitmodel.data.images import EXTENSIONS, MAX_BYTES, MAX_PIXELS

ALLOWED_FORMATS = tuple(EXTENSIONS)  # never a decoder that can run code
SMALL_PIXELS = 64  # a side; up to this size, getting the interpreter lock back takes longer than decoding

Images = NDArray[np.uint8]
Box = tuple[int, int, int, int]

_WORD, _PNG_HEAD = struct.Struct(">I").unpack_from, struct.Struct(">IIBB").unpack_from
_PNG_MAGIC, _JPEG_MAGIC = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
_PNG_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


class DecodeError(ValueError):
    """The bytes are not a readable image of an allowed format."""


class Header(NamedTuple):
    """Kind and size of an image, from its first bytes."""

    kind: str
    width: int
    height: int


def read_header(data: bytes) -> Header:
    """Kind and size of an image, checked against the limits before any pixel is decoded. Raises DecodeError."""
    if len(data) > MAX_BYTES:
        raise DecodeError(f"{len(data)} bytes; the limit is {MAX_BYTES}")
    try:
        header = _header(data)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, struct.error) as error:
        raise DecodeError(str(error)) from error
    if header.width * header.height > MAX_PIXELS:
        raise DecodeError(f"{header.width} x {header.height} pixels; the limit is {MAX_PIXELS} in total")
    return header


def decode(data: bytes, header: Header, *, at_least: tuple[int, int] | None = None) -> Images:
    """All pixels. A JPEG much larger than `at_least` (width, height) is decoded at a half, quarter or eighth of its size,
    with the same result on every machine. Raises DecodeError."""
    try:
        if header.kind == "JPEG":
            width, height = at_least or (header.width, header.height)
            return simplejpeg.decode_jpeg(data, "RGB", min_width=width, min_height=height, min_factor=2, strict=True)
        if header.kind in ("PNG grey", "PNG RGB"):
            _check_chunks(data)
            small = header.kind == "PNG RGB" and header.width * header.height <= SMALL_PIXELS**2
            return _small_png(data, header) if small else _plain_png(data)
        with Image.open(io.BytesIO(data), formats=ALLOWED_FORMATS) as image:
            return np.array(image.convert("RGB"))  # a writable copy, as from the other decoders
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, struct.error) as error:
        raise DecodeError(str(error)) from error


def decode_box(data: bytes, header: Header, box: Box | None, side: int) -> Images:
    """The box (None: the whole image), resampled to (side, side): bilinear, with antialiasing. Raises DecodeError."""
    if box is None and header.width == header.height == side:
        return decode(data, header)
    left, top, width, height = box or (0, 0, header.width, header.height)
    least = (-(-header.width * side // width), -(-header.height * side // height))
    pixels = decode(data, header, at_least=least)
    if (scale := header.width / pixels.shape[1]) > 1:  # the box in pixels of the scaled image
        left, top, width, height = (int(edge / scale) for edge in (left, top, width, height))
    part = pixels[top : top + height, left : left + width]
    return part if part.shape[:2] == (side, side) else resample(part, side)


def resample(pixels: Images, side: int) -> Images:
    """(H, W, 3) to (side, side, 3), bilinear with antialiasing."""
    image_1HWC = torch.from_numpy(pixels)[None]  # permuted with its batch, the result stays contiguous by pixel
    small = F.interpolate(image_1HWC.permute(0, 3, 1, 2), (side, side), mode="bilinear", antialias=True)
    return small[0].permute(1, 2, 0).numpy()


def _header(data: bytes) -> Header:
    if data[:2] == _JPEG_MAGIC:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        return Header("JPEG CMYK" if colours in ("CMYK", "YCCK") else "JPEG", width, height)
    if data[:8] == _PNG_MAGIC:
        width, height, bits, colours = _PNG_HEAD(data, 16)
        plain = {0: "PNG grey", 2: "PNG RGB"} if bits == 8 else {}  # Pillow handles palettes, alpha and 16 bits
        return Header(plain.get(colours, "PNG"), width, height)
    with Image.open(io.BytesIO(data), formats=ALLOWED_FORMATS) as image:
        return Header(str(image.format), *image.size)


def _check_chunks(data: bytes) -> None:
    """Raise DecodeError with the reason if a PNG is damaged or truncated; the decoders give none."""
    view, start = memoryview(data), 8
    while start < len(data):
        end = start + 8 + _WORD(data, start)[0]
        if zlib.crc32(view[start + 4 : end]) != _WORD(data, end)[0]:
            raise DecodeError(f"checksum of the PNG's chunk at byte {start} differs")
        start = end + 4
    if data[-8:-4] != b"IEND":
        raise DecodeError("the PNG is truncated")


def _plain_png(data: bytes) -> Images:
    pixels: Images | None = cv2.imdecode(np.frombuffer(data, np.uint8), _PNG_FLAGS)  # type: ignore[assignment]
    if pixels is None:
        raise DecodeError("damaged data stream in the PNG")
    return pixels


def _small_png(data: bytes, header: Header) -> Images:
    try:
        return kornia_rs.io.decode_image_png_u8(data, (header.height, header.width), "rgb")
    except Exception as error:  # it raises no specific type
        raise DecodeError(str(error)) from error
