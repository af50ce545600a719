"""What is said of a model beside its graph: its identity, and the `model.toml` in its folder.

Every key is optional; what is absent is read from the graph. Unknown keys and wrong types refuse the model, because a
misspelt key would otherwise change the preprocessing, and with it the answer, without a word.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from onnxplain.facts.cards import Kind, Task
from onnxplain.facts.errors import ModelRefused

MANIFEST = "model.toml"
MANIFEST_BYTES = 1 << 20
CLASSES_BYTES = 16 << 20


@dataclass(frozen=True)
class Identity:
    """Which model this is; `sha256` is that of the .onnx bytes."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True)
class ImageManifest:
    """The `[image]` table: how a picture becomes the input tensor. None where the graph or a default decides."""

    size: tuple[int, int] | None = None
    mode: Literal["RGB", "BGR", "L"] | None = None
    layout: Literal["NCHW", "NHWC"] | None = None
    scale: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    fit: Literal["crop", "stretch", "letterbox"] = "stretch"
    resize_to: int | None = None


@dataclass(frozen=True)
class TabularManifest:
    """The `[tabular]` table: names of the columns in order, and the registered evaluation data."""

    features: tuple[str, ...] | None = None
    evaluation_data: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class Manifest:
    """A read `model.toml`; `classes` holds the labels, from whichever of its two keys they came."""

    kind: Kind | None = None
    task: Task | None = None
    description: str = ""
    classes: tuple[str, ...] = ()
    score_output: str | None = None
    image: ImageManifest = field(default_factory=ImageManifest)
    tabular: TabularManifest = field(default_factory=TabularManifest)
    layer: str | None = None


def read_manifest(folder: Path | None) -> Manifest:
    """The manifest of a model folder; the empty one where there is no `model.toml` (or no folder).

    Raises:
        ModelRefused: it is not TOML, or has an unknown key or a value of the wrong type.
    """
    if folder is None or not (folder / MANIFEST).is_file():
        return Manifest()
    content = _read_bytes(folder / MANIFEST, MANIFEST_BYTES)
    return parse_manifest(content, folder)


def parse_manifest(content: bytes, folder: Path | None = None) -> Manifest:
    """A manifest from the bytes of a TOML document; `classes_file` is looked up in `folder`.

    Raises:
        ModelRefused: it is not TOML, or has an unknown key or a value of the wrong type.
    """
    try:
        document = tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, a number of thousands of digits
        message = f"{MANIFEST} is not TOML in UTF-8 ({error}); correct it or leave it out."
        raise ModelRefused(message) from error
    keys = _checked(document, _DOCUMENT, "")
    image = ImageManifest(**_checked(keys.pop("image", {}), _IMAGE, "image"))
    tabular = TabularManifest(**_checked(keys.pop("tabular", {}), _TABULAR, "tabular"))
    gradcam = _checked(keys.pop("gradcam", {}), _GRADCAM, "gradcam")
    classes_file = keys.pop("classes_file", None)
    if classes_file is not None:
        if keys.get("classes"):
            raise ModelRefused(f"{MANIFEST} has both `classes` and `classes_file`; keep one of them.")
        keys["classes"] = _classes_in(inside(folder, classes_file, "classes_file"))
    return Manifest(**keys, image=image, tabular=tabular, layer=gradcam.get("layer"))


def inside(folder: Path | None, name: str, key: str) -> Path:
    """The file `name` of a model's folder.

    Raises:
        ModelRefused: there is no such file, or it lies outside of the folder.
    """
    if folder is None:
        raise ModelRefused(f"{MANIFEST} names the file `{name}` in `{key}`, but this model has no folder to look in.")
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ModelRefused(f"`{key}` in {MANIFEST} must name a file inside the model's folder; `{name}` lies outside.")
    if not path.is_file():
        raise ModelRefused(f"`{key}` in {MANIFEST} names `{name}`, which is not in the model's folder; add the file.")
    return path


def _read_bytes(path: Path, limit: int) -> bytes:
    size = path.stat().st_size
    if size > limit:
        raise ModelRefused(f"{path.name} has {size} bytes; at most {limit} are read. Make it smaller.")
    return path.read_bytes()


def _classes_in(path: Path) -> tuple[str, ...]:
    try:
        lines = _read_bytes(path, CLASSES_BYTES).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ModelRefused(f"`{path.name}` is not text in UTF-8; write one class label a line.") from error
    return tuple(line.strip() for line in lines if line.strip())


class _WrongValue(ValueError):
    """A value is not of the type its key wants; the text says which type that is."""


Check = Callable[[Any], Any]


def _checked(table: object, checks: Mapping[str, Check], where: str) -> dict[str, Any]:
    place = f"[{where}] of {MANIFEST}" if where else MANIFEST
    if not isinstance(table, dict):
        raise ModelRefused(f"`{where}` in {MANIFEST} must be a table; write it as `[{where}]`.")
    values = {}
    for key, value in table.items():
        if key not in checks:
            raise ModelRefused(f"{place} has the unknown key `{key}`; known are {', '.join(checks)}.")
        try:
            values[key] = checks[key](value)
        except _WrongValue as error:
            raise ModelRefused(f"`{key}` in {place} must be {error}; it is {value!r:.100}.") from error
    return values


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _WrongValue("a text that is not empty")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise _WrongValue('a list of texts, such as ["cat", "dog"]')
    return tuple(value)


def _table(value: Any) -> Any:
    return value


def _one_of(*choices: str) -> Check:
    def check(value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise _WrongValue("one of " + ", ".join(f'"{choice}"' for choice in choices))
        return value

    return check


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _side(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1 << 14:
        raise _WrongValue("a whole number of pixels from 1 to 16384")
    return value


def _size(value: Any) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2:
        raise _WrongValue("height and width, such as [224, 224]")
    return _side(value[0]), _side(value[1])


def _positive(value: Any) -> float:
    if not _is_number(value) or value <= 0:
        raise _WrongValue("a number above zero")
    return float(value)


def _numbers(value: Any) -> tuple[float, ...]:
    if not isinstance(value, list) or len(value) not in {1, 3} or not all(map(_is_number, value)):
        raise _WrongValue("a list of one number a channel, such as [0.5, 0.5, 0.5]")
    return tuple(map(float, value))


def _deviations(value: Any) -> tuple[float, ...]:
    numbers = _numbers(value)
    if min(numbers) <= 0:
        raise _WrongValue("a list of numbers above zero, one a channel")
    return numbers


_DOCUMENT: dict[str, Check] = {
    "kind": _one_of("image", "tabular"),
    "task": _one_of("classification", "regression"),
    "description": _text,
    "classes": _texts,
    "classes_file": _text,
    "score_output": _text,
    "image": _table,
    "tabular": _table,
    "gradcam": _table,
}
_IMAGE: dict[str, Check] = {
    "size": _size,
    "mode": _one_of("RGB", "BGR", "L"),
    "layout": _one_of("NCHW", "NHWC"),
    "scale": _positive,
    "mean": _numbers,
    "std": _deviations,
    "fit": _one_of("crop", "stretch", "letterbox"),
    "resize_to": _side,
}
_TABULAR: dict[str, Check] = {"features": _texts, "evaluation_data": _text, "label": _text}
_GRADCAM: dict[str, Check] = {"layer": _text}
