"""Maps as pictures: grey, in colours over the picture, and as PNG files."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from onnxplain.pictures.colormaps import table

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

_STRIP_VALUES = 2**17


def to_grey(values: Floats) -> Pixels:
    """A map scaled so that its maximum is 255; negative values are 0, and a map without positive ones is all 0."""
    maximum = float(values.max(initial=0))
    grey = np.zeros(values.shape, np.uint8)
    if maximum > 0:
        for rows in _strips(values):
            grey[rows] = np.rint(np.maximum(values[rows], 0) / np.float32(maximum) * np.float32(255))
    return grey


def overlay(picture: Pixels, heatmap: Pixels, colormap: str = "turbo", alpha: float = 0.5) -> Pixels:
    """The colours of a grey `heatmap` [H, W] over `picture` [H, W, 3]: `(1 - alpha) * picture + alpha * colour`, rounded.

    `alpha` counts in steps of 1/256.
    """
    opacity = round(alpha * 256)
    colours = table(colormap).astype(np.uint16) * np.uint16(opacity) + np.uint16(128)
    blended = np.empty_like(picture)
    for rows in _strips(picture):
        sums = picture[rows] * np.uint16(256 - opacity)
        sums += colours.take(heatmap[rows], axis=0)
        blended[rows] = sums >> 8
    return blended


def _strips(pixels: NDArray[Any]) -> Iterator[slice]:
    """Rows of a picture in strips that stay in a processor's cache, and of which intermediate results are small."""
    height = max(1, _STRIP_VALUES // max(1, pixels[:1].size))
    return (slice(start, start + height) for start in range(0, len(pixels), height))


def encode_png(pixels: Pixels) -> bytes:
    """A picture [H, W, 3] or a grey map [H, W] as PNG (ISO/IEC 15948), fast rather than small.

    Each row is stored as its difference to the row above, deflated by ISA-L: within a tenth of the size that Pillow's level 1
    reaches, in an eighth of its time, which would otherwise be longer than the explanation itself.
    """
    height, width = pixels.shape[:2]
    lines = pixels.reshape(height, -1)
    above = np.zeros_like(lines[:1])
    deflate = isal_zlib.compressobj(1)
    data = []
    for rows in _strips(lines):
        strip = lines[rows]
        filtered = np.full((len(strip), 1 + strip.shape[1]), 2, np.uint8)  # 2 is the filter "up"
        np.subtract(strip[:1], above, out=filtered[:1, 1:])
        np.subtract(strip[1:], strip[:-1], out=filtered[1:, 1:])
        above = strip[-1:]
        data.append(deflate.compress(filtered.data))
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", b"".join((*data, deflate.flush()))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I4s", len(data), kind) + data + struct.pack(">I", isal_zlib.crc32(data, isal_zlib.crc32(kind)))
        for kind, data in chunks
    )
