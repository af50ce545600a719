"""A picture file's pixels, upright.

A picture is upright `uint8[H, W, 3]` RGB everywhere in this room. Pixel values are taken as they stand: colour profiles and
gamma are ignored, as training pipelines ignore them. Transparency is shown on white.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from onnxplain.facts.errors import InputTooLarge, MalformedInput
from onnxplain.facts.tasks import TaskLimits
from onnxplain.pictures.file import Format, PictureFile, parse

Pixels = NDArray[np.uint8]


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


def decode(body: bytes, media_type: str = "", max_pixels: float = TaskLimits.max_pixels) -> Pixels:
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
