"""Pictures made on the spot, byte by byte where a library would not write them: odd but valid ones, and hostile ones."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, data: bytes) -> bytes:
    """One PNG chunk."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int, height: int, depth: int, colour: int, rows: bytes, *, before: bytes = b"", after: bytes = b""
) -> bytes:
    """A PNG of unfiltered `rows` (samples packed big-endian, without filter bytes); `before` and `after` IDAT go other chunks."""
    stride = len(rows) // height
    raw = b"".join(b"\0" + rows[row * stride : (row + 1) * stride] for row in range(height))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return SIGNATURE + header + before + chunk(b"IDAT", zlib.compress(raw)) + after + chunk(b"IEND", b"")


def exif(orientation: int, order: str = "<") -> bytes:
    """An EXIF block that says nothing but the orientation."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(order + "IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def with_exif(name: str, pixels: np.ndarray, block: bytes) -> bytes:
    """`pixels` as a PNG, lossless WebP or JPEG that carries the EXIF `block`."""
    if name == "PNG":
        height, width = pixels.shape[:2]
        return png(width, height, 8, 2, pixels.tobytes(), before=chunk(b"eXIf", block))
    return saved(pixels, name, exif=b"Exif\0\0" + block)


def saved(pixels: np.ndarray, name: str, **options: object) -> bytes:
    """`pixels` as Pillow writes them, without loss where the format can."""
    file = io.BytesIO()
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 98, "subsampling": 0}}.get(name, {}) | options
    Image.fromarray(pixels).save(file, name, **options)
    return file.getvalue()


def scene(height: int = 48, width: int = 64) -> np.ndarray:
    """A smooth picture that no turn or mirror leaves as it is, with some noise so that files of it are not tiny."""
    y, x = np.mgrid[:height, :width].astype(float)
    noise = np.random.default_rng(0).normal(0, 6, (height, width, 3))
    colours = np.stack([x * 255 / width, y * 255 / height, 255 * (x * y) / (height * width)], axis=-1)
    return np.clip(colours + noise, 0, 255).astype(np.uint8)


def jpeg_segment(marker: int, data: bytes) -> bytes:
    """One JPEG segment."""
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def hostile() -> Iterator[tuple[str, bytes]]:
    """More than 300 pictures with a name each: damaged, lying, huge, disguised, or laden with metadata."""
    picture = scene()
    whole = {name: saved(picture, name) for name in ("PNG", "JPEG", "WEBP")}
    whole["progressive JPEG"] = saved(picture, "JPEG", progressive=True)
    for name, body in whole.items():
        for percent in range(0, 100, 2):
            yield f"{name} cut at {percent} %", body[: len(body) * percent // 100]
        yield f"{name} without its last byte", body[:-1]
        yield f"{name} and a ZIP behind it", body + b"PK\3\4" + bytes(100)
        rng = np.random.default_rng(len(body))
        for number in range(10):
            flipped = bytearray(body)
            flipped[int(rng.integers(2, len(body)))] ^= 1 << int(rng.integers(8))
            yield f"{name} with a flipped bit, {number}", bytes(flipped)
    yield from _lying(whole)
    yield from _other_formats(picture)
    yield from _metadata(whole)
    yield from _animated(picture)


def _lying(whole: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    idat = whole["PNG"][33:]
    for width, height in (
        (20_000, 20_000),
        (13_377, 13_377),
        (2**31 - 1, 2**31 - 1),
        (0, 10),
        (10, 0),
        (5000, 5000),
        (1, 2**31 - 1),
    ):
        for depth, colour in ((8, 2), (1, 0), (16, 6), (8, 3)):
            header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
            yield f"PNG that says {width}x{height}, {depth} bits, colour {colour}", SIGNATURE + header + idat
    bits = zlib.compress((b"\0" + bytes(1673)) * 13_377, 9)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 13_377, 13_377, 1, 0, 0, 0, 0))
    yield "a real 13377x13377 bomb", SIGNATURE + header + chunk(b"IDAT", bits) + chunk(b"IEND", b"")
    for depth, colour in ((3, 0), (16, 3), (8, 5), (0, 0), (255, 255), (32, 2)):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 48, depth, colour, 0, 0, 0))
        yield f"PNG of {depth} bits, colour {colour}", SIGNATURE + header + idat
    yield "PNG without IDAT", whole["PNG"][:33] + chunk(b"IEND", b"")
    yield "PNG without IHDR", SIGNATURE + idat
    yield "PNG that ends in its signature", SIGNATURE
    yield "PNG with a false checksum", whole["PNG"][:29] + b"\0\0\0\0" + idat
    yield "PNG with a chunk of 4 GB", whole["PNG"][:33] + b"\xff\xff\xff\xff" + b"IDAT"
    yield "palette PNG without palette", png(2, 2, 8, 3, bytes(4))
    yield "palette PNG with indices outside", png(2, 2, 8, 3, b"\0\1\2\xff", before=chunk(b"PLTE", bytes(6)))
    yield "PNG with a short tRNS", png(2, 2, 8, 2, bytes(12), before=chunk(b"tRNS", b"\0"))
    yield "PNG with 100,000 chunks", SIGNATURE + whole["PNG"][8:33] + chunk(b"IDAT", b"") * 100_000 + idat
    start = whole["JPEG"].index(b"\xff\xc0")
    for width, height in ((65_535, 65_535), (65_500, 1), (0, 48), (64, 0), (30_000, 20_000), (4_900, 5_000)):
        lie = whole["JPEG"][: start + 5] + struct.pack(">HH", height, width) + whole["JPEG"][start + 9 :]
        yield f"JPEG that says {width}x{height}", lie
    yield "JPEG of 12 bits", whole["JPEG"][: start + 4] + b"\x0c" + whole["JPEG"][start + 5 :]
    yield (
        "JPEG with a thousand scans",
        whole["progressive JPEG"][:-2] + _last_scan(whole["progressive JPEG"]) * 1000 + b"\xff\xd9",
    )
    yield "JPEG of nothing but fill bytes", b"\xff\xd8" + b"\xff" * 2_000_000
    yield "JPEG of nothing but markers", b"\xff\xd8\xff" + b"\x01\xff" * 1_000_000
    yield "JPEG that ends at once", b"\xff\xd8\xff\xd9"
    for width, height in ((16_383, 16_383), (2**24, 2**24), (1, 2**24)):
        vp8x = (
            b"VP8X"
            + struct.pack("<I", 10)
            + bytes(4)
            + (width - 1).to_bytes(3, "little")
            + (height - 1).to_bytes(3, "little")
        )
        yield f"WebP that says {width}x{height}", b"RIFF" + struct.pack("<I", 100) + b"WEBP" + vp8x + bytes(70)
    yield "WebP of an unknown chunk", b"RIFF" + struct.pack("<I", 100) + b"WEBPABCD" + bytes(100)
    yield (
        "WebP with a million chunks",
        (
            b"RIFF"
            + struct.pack("<I", 8_000_000)
            + b"WEBPVP8X"
            + struct.pack("<I", 10)
            + bytes(10)
            + b"ABCD\0\0\0\0" * 1_000_000
        ),
    )


def _last_scan(progressive: bytes) -> bytes:
    return progressive[progressive.rindex(b"\xff\xda") : -2]


def _other_formats(picture: np.ndarray) -> Iterator[tuple[str, bytes]]:
    for name in ("GIF", "BMP", "TIFF", "PPM", "TGA", "ICO", "PCX", "JPEG2000", "DDS", "SGI"):
        try:
            yield f"{name} as PNG", saved(picture, name)
        except OSError:  # an encoder that this build of Pillow lacks
            continue
    for name, body in {
        "nothing": b"",
        "one byte": b"\x89",
        "text": b"hello",
        "HTML": b"<!doctype html><p>no picture",
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "PDF": b"%PDF-1.7\n",
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n",
        "ZIP": b"PK\3\4" + bytes(100),
        "ELF": b"\x7fELF" + bytes(100),
        "a JPEG's first bytes and zeros": b"\xff\xd8\xff" + bytes(1000),
        "a JPEG's first bytes and ones": b"\xff\xd8\xff" + b"\xff" * 1000,
        "random": np.random.default_rng(0).bytes(10_000),
        "a PNG's signature and noise": SIGNATURE + np.random.default_rng(1).bytes(10_000),
        "a WebP's header and noise": b"RIFF\0\0\0\0WEBPVP8 " + np.random.default_rng(2).bytes(10_000),
        "a lossless WebP's header and noise": b"RIFF\0\0\0\0WEBPVP8L" + np.random.default_rng(3).bytes(10_000),
    }.items():
        yield name, body


def _metadata(whole: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    bomb = zlib.compress(bytes(50_000_000), 9)
    head, tail = whole["PNG"][:33], whole["PNG"][33:]
    yield "PNG with a text bomb before", head + chunk(b"zTXt", b"k\0\0" + bomb) + tail
    yield (
        "PNG with text bombs behind",
        whole["PNG"][:-12] + chunk(b"iTXt", b"k\0\1\0\0\0" + bomb) * 50 + whole["PNG"][-12:],
    )
    yield "PNG with a profile bomb", head + chunk(b"iCCP", b"k\0\0" + bomb) + tail
    yield "PNG with 10 MB of EXIF", head + chunk(b"eXIf", exif(1) + bytes(10_000_000)) + tail
    yield "PNG with 10 MB of text", head + chunk(b"tEXt", b"k\0" + bytes(10_000_000)) + tail
    yield "JPEG with 10 MB of comments", whole["JPEG"][:2] + jpeg_segment(0xFE, bytes(65_000)) * 154 + whole["JPEG"][2:]
    # 65,535 entries that all name the same 3 MB: a parser that reads what they name takes 200 GB.
    entries = b"".join(struct.pack("<HHII", tag, 1, 3_000_000, 8) for tag in range(5000))
    block = b"II*\0" + struct.pack("<IH", 8, 5000) + entries
    segments = [
        b"Exif\0\0" + (block + bytes(3_000_000))[start : start + 65_000] for start in range(0, 3_000_000, 65_000)
    ]
    yield (
        "JPEG with an EXIF bomb",
        whole["JPEG"][:2] + b"".join(jpeg_segment(0xE1, part) for part in segments) + whole["JPEG"][2:],
    )
    yield "PNG with an EXIF bomb", head + chunk(b"eXIf", block + bytes(3_000_000)) + tail
    for name, orientation in (("0", 0), ("9", 9), ("65535", 65_535)):
        yield f"PNG with orientation {name}", head + chunk(b"eXIf", exif(orientation)) + tail
    yield "PNG whose EXIF points outside", head + chunk(b"eXIf", b"II*\0\xff\xff\xff\xff") + tail
    yield "PNG with empty EXIF", head + chunk(b"eXIf", b"") + tail


def _animated(picture: np.ndarray) -> Iterator[tuple[str, bytes]]:
    frames = [Image.fromarray(np.roll(picture, shift, axis=1)) for shift in range(3)]
    for name in ("PNG", "WEBP", "GIF"):
        file = io.BytesIO()
        frames[0].save(file, name, save_all=True, append_images=frames[1:], duration=50)
        yield f"animated {name}", file.getvalue()
