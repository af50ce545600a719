"""Where models lie that came over HTTP, or that a watched folder held: a folder a version, and one pointer a name.

    <store>/<name>/<digest>/model.onnx, model.toml, ...     never changed once it is there
    <store>/<name>/current.json                             {"digest": ..., "version": ...}; replaced in one step

A reader sees the old version or the new one, never half of either, and a crash leaves at worst a folder nobody points to.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

from onnxplain.facts.tasks import ModelRef

MODEL = "model.onnx"
MANIFEST = "model.toml"
_POINTER = "current.json"
_INCOMING = ".incoming"


@dataclass(frozen=True)
class Pointer:
    """Which version of a name is served; an empty digest says that the name was removed."""

    digest: str
    version: int


class Store:
    """Versions of models on disk. Its methods block: call them in a thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def receive(self, model: BinaryIO, manifest: bytes) -> Path:
        """Write an upload to a folder of its own, which nobody reads yet."""
        staged = self._stage()
        with (staged / MODEL).open("wb") as file:
            shutil.copyfileobj(model, file, 2**20)
            _flush(file)
        if manifest:
            (staged / MANIFEST).write_bytes(manifest)
        return staged

    def snapshot(self, source: Path) -> Path:
        """Copy a model's folder, so that what is served does not change under the hands of who writes there."""
        staged = self._stage()
        shutil.copytree(source, staged, dirs_exist_ok=True)
        return staged

    def place(self, staged: Path, name: str, version: int) -> ModelRef:
        """Move a staged folder to where its digest says, and tell how to refer to it."""
        files = sorted(path for path in staged.rglob("*") if path.is_file())
        digests = {str(path.relative_to(staged)): digest_of(path) for path in files}
        digest = hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()
        home = self.folder / name / digest
        if home.is_dir():
            shutil.rmtree(staged)
        else:
            home.parent.mkdir(parents=True, exist_ok=True)
            staged.rename(home)
            _flush_folder(home.parent)
        return ModelRef(name, str(home), digests[MODEL], str(version), digest)

    def point(self, name: str, pointer: Pointer) -> None:
        """Make a version the one that is served, in one step."""
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{_POINTER}.{secrets.token_hex(4)}"
        with temporary.open("w") as file:
            json.dump({"digest": pointer.digest, "version": pointer.version}, file)
            _flush(file)
        temporary.replace(folder / _POINTER)
        _flush_folder(folder)

    def pointers(self) -> dict[str, Pointer]:
        """What is served, by name; a pointer that cannot be read is passed over."""
        found = {}
        for file in sorted(self.folder.glob(f"*/{_POINTER}")):
            try:
                document = json.loads(file.read_bytes())
                found[file.parent.name] = Pointer(str(document["digest"]), int(document["version"]))
            except (ValueError, KeyError, TypeError):
                continue
        return found

    def ref(self, name: str, pointer: Pointer) -> ModelRef | None:
        """The version that a pointer names; None where its folder is gone."""
        home = self.folder / name / pointer.digest
        file = home / MODEL
        if not pointer.digest or not file.is_file():
            return None
        return ModelRef(name, str(home), digest_of(file), str(pointer.version), pointer.digest)

    def discard(self, path: Path | str) -> None:
        """Delete a version or a staged folder. What lies outside of the store is left alone."""
        path = Path(path)
        if path.is_relative_to(self.folder) and path != self.folder:
            shutil.rmtree(path, ignore_errors=True)

    def sweep(self) -> None:
        """Delete what no pointer names: leftovers of a crash."""
        self.discard(self.folder / _INCOMING)
        pointers = self.pointers()
        for home in self.folder.glob("*/*"):
            if home.is_dir() and pointers.get(home.parent.name, Pointer("", 0)).digest != home.name:
                self.discard(home)

    def _stage(self) -> Path:
        staged = self.folder / _INCOMING / secrets.token_hex(8)
        staged.mkdir(parents=True)
        return staged


def digest_of(file: Path) -> str:
    """SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _flush(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """A rename is on disk only once the folder is."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
