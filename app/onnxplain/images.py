"""Pictures: from bytes to a model's input, and a map back onto the picture. The one home of Pillow.

A picture is upright `uint8[H, W, 3]` RGB everywhere between these functions. Pixel values are taken as they stand: colour
profiles and gamma are ignored, as training pipelines ignore them. Transparency is shown on white.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from onnxplain.cards import ImageSpec
from onnxplain.colormaps import table
from onnxplain.errors import InputTooLarge, MalformedInput
from onnxplain.picture_file import Format, PictureFile, parse

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

MOST_PIXELS = 25_000_000
_STRIP_VALUES = 2**17
LETTERBOX_GREY = 114  # of the YOLO family, where letterboxes come from

Image.MAX_IMAGE_PIXELS = None  # the limit is a request's own, and applied before Pillow sees a byte

_OPENERS: dict[Format, Callable[[io.BytesIO], Image.Image]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
}
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(body: bytes, media_type: str = "", max_pixels: float = MOST_PIXELS) -> Pixels:
    """The picture in a JPEG, PNG or WebP file, upright as its EXIF orientation says.

    CMYK and YCCK become RGB as (1 - ink)(1 - black). Samples of 16 bits are scaled to 8, rounded to the nearest level.

    Args:
        body: the file.
        media_type: what the caller says it is; empty or `application/octet-stream` leaves it to the content.
        max_pixels: most pixels, applied before anything is decoded.

    Returns:
        uint8[H, W, 3], RGB.

    Raises:
        UnsupportedMediaType: another kind of file.
        MalformedInput: not what `media_type` says, incomplete or damaged.
        BadPicture: animated, or of a kind that cannot be decoded exactly.
        InputTooLarge: more pixels than `max_pixels`.
    """
    file = parse(body, media_type)
    if file.width * file.height > max_pixels:
        raise InputTooLarge(
            f"The picture has {file.width} x {file.height} pixels; at most {max_pixels:.0f} are taken. Send a smaller one."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = _decode_deep(file) if file.bit_depth == 16 else _decode(file)
    except MemoryError:
        raise InputTooLarge("The picture needs more memory than a worker may use. Send a smaller one.") from None
    except Exception:  # noqa: BLE001 # decoders raise whatever they like; their words may hold addresses
        _refuse_damaged(file)
    return np.asarray(image.transpose(_UPRIGHT[file.orientation]) if file.orientation > 1 else image)


def _refuse_damaged(file: PictureFile) -> NoReturn:
    raise MalformedInput(
        f"The {file.format} file cannot be decoded: it is incomplete or damaged. Send the whole file as it was saved."
    ) from None


def _open(file: PictureFile) -> Image.Image:
    image = _OPENERS[file.format](io.BytesIO(file.content))
    if image.size != (file.width, file.height):
        _refuse_damaged(file)
    return image


def _decode(file: PictureFile) -> Image.Image:
    """Samples of up to 8 bits, to RGB on white."""
    image = _open(file)
    image.load()
    key = image.info.get("transparency")
    if isinstance(key, int) and image.mode == "L":  # a PNG's key is a raw sample, its pixels are scaled to 8 bits
        image.info["transparency"] = (key & (2**file.bit_depth - 1)) * 255 // (2**file.bit_depth - 1)
    if key is None and image.mode not in ("LA", "PA", "RGBA"):
        return image if image.mode == "RGB" else image.convert("RGB")  # converting would copy
    image = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    return white


def _decode_deep(file: PictureFile) -> Image.Image:
    """PNG samples of 16 bits, which Pillow would clip (grey) or cut (colour), to RGB on white."""
    samples, key = _deep_samples(file)
    alpha: NDArray[np.uint16] | None = None
    if file.colour_type in (4, 6):
        samples, alpha = samples[..., :-1], samples[..., -1:]
    elif key is not None:
        alpha = np.where((samples == key).all(axis=-1, keepdims=True), 0, 65535).astype(np.uint16)
    if alpha is not None:
        opacity = alpha.astype(np.float32) / 65535
        samples = np.rint(65535 - (65535 - samples.astype(np.float32)) * opacity).astype(np.uint16)
    to_8_bits = ((np.arange(65536) * 255 + 32767) // 65535).astype(np.uint8)
    pixels = to_8_bits[samples]
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3))))


def _deep_samples(file: PictureFile) -> tuple[NDArray[np.uint16], int | tuple[int, ...] | None]:
    """Samples uint16[H, W, channels] of a 16-bit PNG, and its transparent colour if it has one.

    Pillow unpacks colour to its high bytes only. Read as little-endian, the same samples give their low bytes; and grey
    with alpha is as wide as 8-bit RGBA, which gives all four bytes at once.
    """
    image = _open(file)
    if file.colour_type == 0:
        return np.asarray(image).astype(np.uint16)[..., None], image.info.get("transparency")
    if file.colour_type == 4:
        _reread(image, "RGBA")
        return np.asarray(image).view(">u2").astype(np.uint16), None
    low = _open(file)
    _reread(low, f"{image.mode};16L")
    samples = np.asarray(image).astype(np.uint16) << 8 | np.asarray(low)
    return samples, image.info.get("transparency")


def _reread(image: Image.Image, raw_mode: str) -> None:
    """Has a PNG's bytes unpacked as another raw mode of the same width."""
    assert isinstance(image, PngImagePlugin.PngImageFile)
    image.tile = [image.tile[0]._replace(args=raw_mode)]


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
