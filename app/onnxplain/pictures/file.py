"""What a picture file says before a pixel of it is decoded: format, size, orientation, and the bytes a decoder needs.

Pure Python over the bytes, so that limits are applied before any native decoder runs, and metadata never reaches one:
text, profiles, thumbnails and EXIF are where the decompression bombs and parser bugs are.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NoReturn

from onnxplain.facts.errors import BadPicture, MalformedInput, UnsupportedMediaType

Format = Literal["JPEG", "PNG", "WEBP"]

MOST_PNG_CHUNKS = 16_384
MOST_JPEG_SEGMENTS = 4096
MOST_WEBP_CHUNKS = 1024
MOST_JPEG_SCANS = 100  # a progressive picture has about 10; each costs a pass over all its pixels

_MEDIA_TYPES: dict[str, Format] = {
    "image/jpeg": "JPEG",
    "image/jpg": "JPEG",
    "image/pjpeg": "JPEG",
    "image/png": "PNG",
    "image/x-png": "PNG",
    "image/webp": "WEBP",
}
_OTHER_FORMATS = (
    (0, b"GIF8", "a GIF"),
    (0, b"BM", "a BMP"),
    (0, b"II*\0", "a TIFF"),
    (0, b"MM\0*", "a TIFF"),
    (0, b"II+\0", "a TIFF"),
    (0, b"MM\0+", "a TIFF"),
    (4, b"ftypavif", "an AVIF"),
    (4, b"ftypheic", "a HEIC"),
    (4, b"ftypmif1", "a HEIF"),
    (4, b"jP  \r\n", "a JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000"),
    (0, b"\xff\x0a", "a JPEG XL"),
    (4, b"JXL \r\n", "a JPEG XL"),
    (0, b"8BPS", "a Photoshop"),
    (0, b"\0\0\1\0", "an ICO"),
    (0, b"%PDF", "a PDF"),
    (0, b"%!PS", "a PostScript"),
    (0, b"<svg", "an SVG"),
    (0, b"<?xml", "an XML"),
    (0, b"qoif", "a QOI"),
)
_READ = "Send a JPEG, PNG or WebP."

_SCAN_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # neither a stuffed 0xFF nor a restart


@dataclass(frozen=True)
class PictureFile:
    """What the container says.

    Attributes:
        format: by content, never by name.
        width, height: as stored, in pixels; before the orientation is applied.
        orientation: EXIF orientation 1 to 8; 1 when nothing is said or what is said cannot be read.
        content: the file without metadata, for the decoder.
        bit_depth: of a PNG sample (1, 2, 4, 8, 16), else 8.
        colour_type: of a PNG (0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA), else 2.
    """

    format: Format
    width: int
    height: int
    orientation: int
    content: bytes
    bit_depth: int = 8
    colour_type: int = 2


def parse(body: bytes, media_type: str = "") -> PictureFile:
    """Reads the container of `body`; `media_type` must agree where it names a picture format.

    Raises:
        UnsupportedMediaType: another kind of file than JPEG, PNG and WebP.
        MalformedInput: the content is not what `media_type` says, or the file is incomplete or damaged.
        BadPicture: animated, or of a kind that is not decoded exactly here.
    """
    if not body:
        raise MalformedInput(f"The picture is empty. {_READ}")
    found = _format(body)
    if found is None:
        _refuse_unknown(body)
    said = _MEDIA_TYPES.get(media_type)
    if said not in (None, found):
        raise MalformedInput(
            f"The picture was sent as {media_type} but is a {found} file. "
            f"Send it as image/{found.lower()}, or as application/octet-stream to let its content decide."
        )
    try:
        file = {"JPEG": _jpeg, "PNG": _png, "WEBP": _webp}[found](body)
    except (struct.error, IndexError):
        _refuse_damaged(found)
    if not file.width or not file.height:
        _refuse_damaged(found)
    return file


def _format(body: bytes) -> Format | None:
    if body.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if body.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if body.startswith(b"RIFF") and body[8:12] == b"WEBP":
        return "WEBP"
    return None


def _refuse_unknown(body: bytes) -> NoReturn:
    for offset, magic, name in _OTHER_FORMATS:
        if body.startswith(magic, offset):
            raise UnsupportedMediaType(f"The file is {name} file, which is not read here. {_READ}")
    raise MalformedInput(
        f"The file is not a picture that is read here: its first bytes belong to no known format. {_READ}"
    )


def _refuse_damaged(name: str) -> NoReturn:
    raise MalformedInput(f"The {name} file is incomplete or damaged. Send the whole file as it was saved.")


def _refuse_animated(name: str) -> NoReturn:
    raise BadPicture(f"The {name} file is animated, and an explanation is of one picture. Send one of its frames.")


def _png(body: bytes) -> PictureFile:
    """Keeps the critical chunks and tRNS; everything else may hold a text bomb."""
    width, height, bit_depth, colour_type = struct.unpack_from(">IIBB", body, 16)
    kept = [body[:8]]
    orientation, compressed = 1, 0
    for kind, start, end in _png_chunks(body):
        if kind == b"acTL":
            _refuse_animated("PNG")
        if kind == b"eXIf":
            orientation = _exif_orientation(body[start + 8 : end - 4])
        if kind == b"IDAT":
            compressed += end - start - 12
        if kind == b"tRNS" or not kind[0] & 0x20:
            kept.append(body[start:end])
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour_type)
    if body[12:16] != b"IHDR" or samples is None or bit_depth not in (1, 2, 4, 8, 16):
        _refuse_damaged("PNG")
    # Deflate reaches 1032:1 at most, so that a header can promise more pixels than there can be.
    if width * height * samples * bit_depth > 8 * 1032 * compressed:
        _refuse_damaged("PNG")
    return PictureFile("PNG", width, height, orientation, b"".join(kept), bit_depth, colour_type)


def _png_chunks(body: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of each chunk up to IEND, without which the file is cut off."""
    position = 8
    for _ in range(MOST_PNG_CHUNKS):
        length, kind = struct.unpack_from(">I4s", body, position)
        end = position + 12 + length
        if end > len(body):
            _refuse_damaged("PNG")
        yield kind, position, end
        if kind == b"IEND":
            return
        position = end
    raise BadPicture(f"The PNG file has more than {MOST_PNG_CHUNKS} chunks. Save it anew with any picture program.")


def _jpeg(body: bytes) -> PictureFile:
    """Keeps the tables, frame and scans, JFIF (APP0) and Adobe's colour transform (APP14)."""
    kept = [body[:2]]
    width = height = frame = fewest_bits = 0
    components = b""
    orientation = None
    position = 2
    for _ in range(MOST_JPEG_SEGMENTS):
        if body[position] != 0xFF:
            _refuse_damaged("JPEG")
        marker = body[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == 0xD9:
            _refuse_damaged("JPEG")
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            position += 2
            continue
        end = position + 2 + struct.unpack_from(">H", body, position + 2)[0]
        if end > len(body) or end < position + 4:
            _refuse_damaged("JPEG")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            precision, height, width = struct.unpack_from(">BHH", body, position + 4)
            frame, components = marker, body[position + 10 : end]
            fewest_bits = _fewest_bits(frame, width, height, components)
            if precision != 8:
                raise BadPicture(
                    f"The JPEG file has {precision} bits a sample; 8 are read here. Save it with 8 bits, or as PNG."
                )
        if marker == 0xE1 and orientation is None and body.startswith(b"Exif\0\0", position + 4):
            orientation = _exif_orientation(body[position + 10 : end])
        if marker == 0xDA:
            kept.append(_scans(body, position, one=frame in (0xC0, 0xC1)))
            break
        if not (0xE1 <= marker <= 0xED or marker in (0xEF, 0xFE)):
            kept.append(body[position:end])
        position = end
    if not width:  # no frame came before the scan
        _refuse_damaged("JPEG")
    if 8 * len(kept[-1]) < fewest_bits or (frame == 0xC2 and _unsent(body, position, components[::3])):
        _refuse_damaged("JPEG")
    if kept[-1].count(b"\xff\xda") > MOST_JPEG_SCANS:
        raise BadPicture(f"The JPEG file has more than {MOST_JPEG_SCANS} scans. Save it anew with any picture program.")
    return PictureFile("JPEG", width, height, orientation or 1, b"".join(kept))


def _scans(body: bytes, start: int, *, one: bool) -> bytes:
    """All that follows the tables; a baseline picture of one scan without its end marker.

    Where data is missing before an end marker, a decoder fills the rest with grey and says nothing. Without the marker it
    asks for more, and the picture is found to be cut. The zeros are what it reads ahead of the last code.
    """
    marker = _SCAN_MARKER.search(body, start + 2)
    if one and marker and marker[0] == b"\xff\xd9":
        return body[start : marker.start()] + bytes(8)
    return body[start:]


def _unsent(body: bytes, position: int, components: bytes) -> set[tuple[int, int]]:
    """The coefficients (component, place) of a progressive frame whose last bit no scan brings (ITU-T T.81, G.1.1.1).

    A file that was cut, and closed again by who cut it, ends before its last scan.
    """
    unsent = {(component, place) for component in components for place in range(64)}
    while marker := _SCAN_MARKER.search(body, position):
        if marker[0] == b"\xff\xd9":
            break
        start = marker.end()
        position = start + struct.unpack_from(">H", body, start)[0]
        if marker[0] == b"\xff\xda":
            first, last, bits = struct.unpack_from("BBB", body, position - 3)
            if not bits & 15:
                selected = body[start + 3 : position - 3 : 2]
                unsent -= {(component, place) for component in selected for place in range(first, last + 1)}
    return unsent


def _fewest_bits(frame: int, width: int, height: int, components: bytes) -> int:
    """The least that the scans of a Huffman-coded frame can hold: one code for each DC, in a baseline one for its ACs too."""
    codes = {0xC0: 2, 0xC1: 2, 0xC2: 1}.get(frame, 0)
    sampling = [(components[at] >> 4, components[at] & 15) for at in range(1, len(components), 3)]
    wide, high = (max((pair[axis] for pair in sampling), default=0) for axis in (0, 1))
    if not codes or not wide or not high:
        return 0
    blocks = sum(-(-width * x // (8 * wide)) * -(-height * y // (8 * high)) for x, y in sampling)
    return codes * blocks


def _webp(body: bytes) -> PictureFile:
    """Sizes of the three layouts: lossy (VP8), lossless (VP8L), extended (VP8X)."""
    kind = body[12:16]
    orientation = 1
    if kind == b"VP8 ":
        width, height = (size & 0x3FFF for size in struct.unpack_from("<HH", body, 26))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", body, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8X":
        if body[20] & 2:
            _refuse_animated("WebP")
        width = int.from_bytes(body[24:27], "little") + 1
        height = int.from_bytes(body[27:30], "little") + 1
        orientation = _webp_orientation(body)
    else:
        _refuse_damaged("WebP")
    return PictureFile("WEBP", width, height, orientation, body)


def _webp_orientation(body: bytes) -> int:
    position = 12
    for _ in range(MOST_WEBP_CHUNKS):
        if position + 8 > len(body):
            return 1
        kind, length = struct.unpack_from("<4sI", body, position)
        if kind == b"EXIF":
            return _exif_orientation(body[position + 8 : position + 8 + length].removeprefix(b"Exif\0\0"))
        position += 8 + length + length % 2
    raise BadPicture(f"The WebP file has more than {MOST_WEBP_CHUNKS} chunks. Save it anew with any picture program.")


def _exif_orientation(exif: bytes) -> int:
    """The tag 0x0112 of the first directory; 1 where there is none, or none that can be read."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, directory)
        for index in range(count):
            tag, kind, values, value = struct.unpack_from(order + "HHIH", exif, directory + 2 + 12 * index)
            if tag == 0x0112:
                return value if kind == 3 and values == 1 and 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1
