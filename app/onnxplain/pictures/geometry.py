"""Where a picture lies in a model's input: the picture as a tensor, and a map back onto the picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onnxplain.facts.cards import ImageSpec

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

LETTERBOX_GREY = 114  # of the YOLO family, where letterboxes come from


@dataclass(frozen=True)
class Geometry:
    """Where a picture lies in a model's input.

    Attributes:
        picture: height and width of the upright picture.
        canvas: height and width of the model's input.
        content: top, left, bottom, right of the picture on the canvas; the rest is padding.
        source: top, left, bottom, right of the part of the picture that `content` shows, in pixels of the picture.
    """

    picture: tuple[int, int]
    canvas: tuple[int, int]
    content: tuple[int, int, int, int]
    source: tuple[float, float, float, float]


def fit(size: tuple[int, int], spec: ImageSpec) -> Geometry:
    """How a picture of that `size` (height, width) is fitted, with torchvision's and YOLO's rounding.

    `stretch`: to the whole input. `crop`: shorter side to `resize_to` (default: what just covers the input), then the centre; black around it
    where the input is larger than that. `letterbox`: the whole picture, as large as fits, grey around it.
    """
    (height, width), (rows, columns) = size, spec.size
    if spec.fit == "stretch":
        return Geometry(
            (height, width), (rows, columns), (0, 0, rows, columns), (0.0, 0.0, float(height), float(width))
        )
    if spec.fit == "letterbox":
        ratio = min(rows / height, columns / width)
        inner = (max(1, round(height * ratio)), max(1, round(width * ratio)))
        top, left = (max(0, round((outer - size) / 2 - 0.1)) for outer, size in zip(spec.size, inner, strict=True))
        content = (top, left, top + inner[0], left + inner[1])
        return Geometry((height, width), (rows, columns), content, (0.0, 0.0, float(height), float(width)))
    shorter = spec.resize_to or max(spec.size)
    resized = (shorter, int(shorter * width / height)) if height <= width else (int(shorter * height / width), shorter)
    spans = [
        _centre(outer, size, whole) for outer, size, whole in zip(spec.size, resized, (height, width), strict=True)
    ]
    (top, bottom, y0, y1), (left, right, x0, x1) = spans
    return Geometry((height, width), (rows, columns), (top, left, bottom, right), (y0, x0, y1, x1))


def _centre(outer: int, size: int, whole: int) -> tuple[int, int, float, float]:
    """One axis of a centre crop: where on the canvas, and which part of the picture's `whole` pixels."""
    if size < outer:
        start = (outer - size) // 2
        return start, start + size, 0.0, float(whole)
    start = round((size - outer) / 2.0)
    return 0, outer, start * whole / size, (start + outer) * whole / size


def to_tensor(picture: Pixels, spec: ImageSpec) -> tuple[Floats, Geometry]:
    """The model's input, as a torchvision pipeline on Pillow pictures would make it: resize, crop, scale, normalise.

    Resizing is bilinear with antialiasing. Channels are in the order of `spec.mode`; the layout is always NCHW.

    Returns:
        float32[1, c, h, w] with `(pixel / scale - mean) / std`, and the geometry that `place_back` needs.
    """
    geometry = fit((picture.shape[0], picture.shape[1]), spec)
    image = Image.fromarray(picture)
    if spec.mode == "L":
        image = image.convert("L")
    top, left, bottom, right = geometry.content
    size = (right - left, bottom - top)
    image = _resized(image, size, geometry.source)
    if size != geometry.canvas[::-1]:
        grey = LETTERBOX_GREY if spec.fit == "letterbox" else 0
        canvas = Image.new(image.mode, geometry.canvas[::-1], (grey,) * len(image.getbands()))
        canvas.paste(image, (left, top))
        image = canvas
    pixels = np.asarray(image).reshape(*geometry.canvas, -1)
    if spec.mode == "BGR":
        pixels = pixels[..., ::-1]
    channels = pixels.shape[-1]
    tensor = np.empty((1, channels, *geometry.canvas), np.float32)
    tensor[0] = pixels.transpose(2, 0, 1)
    tensor /= np.float32(spec.scale)
    tensor -= np.array(spec.mean[:channels], np.float32).reshape(-1, 1, 1)
    tensor /= np.array(spec.std[:channels], np.float32).reshape(-1, 1, 1)
    return tensor, geometry


def _resized(image: Image.Image, size: tuple[int, int], source: tuple[float, float, float, float]) -> Image.Image:
    """The part `source` of a picture at `size` (width, height).

    The whole is resized and then cut, as torchvision does: cutting first moves one level in a hundred at ties. Only a
    strip, of which little is left, is cut first: enlarging all of 65,535 x 1 pixels would take gigabytes.
    """
    y0, x0, y1, x1 = source
    zoom = (size[0] / (x1 - x0), size[1] / (y1 - y0))
    whole = (round(image.width * zoom[0]), round(image.height * zoom[1]))
    if whole == image.size == size:
        return image
    if whole[0] * whole[1] > 64 * size[0] * size[1]:
        return image.resize(size, Image.Resampling.BILINEAR, box=(x0, y0, x1, y1))
    left, top = round(x0 * zoom[0]), round(y0 * zoom[1])
    return image.resize(whole, Image.Resampling.BILINEAR).crop((left, top, left + size[0], top + size[1]))


def place_back(values: Floats, geometry: Geometry) -> Floats:
    """A map over the model's input, put onto the upright picture.

    Cell (i, j) of `values` [u, v] covers its share of the input; between cell centres values are bilinear, beyond the
    outermost centres constant (half-pixel convention). What the preprocessing cropped away is zero; what lies on padding
    is left out.

    Returns:
        float32[H, W].
    """
    (top, left, bottom, right), (y0, x0, y1, x1) = geometry.content, geometry.source
    rows = _interpolation(geometry.picture[0], (y0, y1), (top, bottom), geometry.canvas[0], values.shape[0])
    columns = _interpolation(geometry.picture[1], (x0, x1), (left, right), geometry.canvas[1], values.shape[1])
    return rows @ np.asarray(values, np.float32) @ columns.T


def _interpolation(
    pixels: int, source: tuple[float, float], content: tuple[int, int], canvas: int, cells: int
) -> Floats:
    """One axis as a matrix float32[pixels, cells]: the weights of the two cells around the centre of each pixel."""
    centres = np.arange(pixels) + 0.5
    on_canvas = content[0] + (centres - source[0]) * ((content[1] - content[0]) / (source[1] - source[0]))
    place = np.clip(on_canvas * (cells / canvas) - 0.5, 0, cells - 1)
    lower = np.minimum(place.astype(np.intp), max(cells - 2, 0))
    weight = (place - lower).astype(np.float32)
    shown = (centres > source[0]) & (centres < source[1])
    matrix = np.zeros((pixels, cells), np.float32)
    index = np.arange(pixels)
    matrix[index, lower] = shown * (1 - weight)
    if cells > 1:
        matrix[index, lower + 1] = shown * weight
    return matrix
