"""How the web process and a worker talk: frames of a pickled head and a raw body over one socket.

The body travels beside the head, so that a table of 100 MB is neither pickled nor copied on its way. This is the worker's
side, which blocks; the web process's side, in `process.py`, awaits. A worker never imports asyncio, which weighs 9 MB.
"""

from __future__ import annotations

import io
import pickle
import socket
import struct
from dataclasses import dataclass
from typing import Any

LENGTHS = struct.Struct("!QQ")
MOST = 2**33  # bytes of a head or a body; more is no frame

_FACTS = frozenset({"onnxplain.facts.cards", "onnxplain.facts.tasks", "onnxplain.facts.errors"})


@dataclass(frozen=True)
class Frame:
    """`kind` says what it is about; `number` which task; `value` is any picklable value; `body` raw bytes."""

    kind: str
    number: int = 0
    value: Any = None
    body: bytes = b""


def head_of(frame: Frame) -> bytes:
    """Everything of a frame but its body.

    Raises:
        PicklingError: it holds something else than facts, which the other side would not take.
    """
    stream = io.BytesIO()
    _FactsOnly(stream, protocol=5).dump((frame.kind, frame.number, frame.value))
    head = stream.getvalue()
    return LENGTHS.pack(len(head), len(frame.body)) + head


def frame_of(head: bytes | bytearray, body: bytes) -> Frame:
    """A frame put together again.

    Raises:
        UnpicklingError: it holds something else than facts.
    """
    kind, number, value = _Facts(io.BytesIO(head)).load()
    return Frame(kind, number, value, body)


class _FactsOnly(pickle.Pickler):
    """Writes facts, tasks and errors only, so that a mistake is found where it was made."""

    def reducer_override(self, obj: Any) -> Any:
        """Asked about everything that is no plain value: let our own pass."""
        kind = obj if isinstance(obj, type) else type(obj)
        if kind.__module__ not in _FACTS:
            raise pickle.PicklingError(f"a frame may not hold {kind.__module__}.{kind.__qualname__}")
        return NotImplemented


class _Facts(pickle.Unpickler):
    """Reads facts, tasks and errors only. A worker runs models that nobody vouches for: what it sends is not trusted."""

    def find_class(self, module: str, name: str) -> Any:
        """One of our own classes, by its plain name."""
        found = super().find_class(module, name) if module in _FACTS and "." not in name else None
        if not isinstance(found, type) or found.__module__ != module:
            raise pickle.UnpicklingError(f"a frame may not hold {module}.{name}")
        return found


def send(sock: socket.socket, frame: Frame) -> None:
    """Write one frame to a blocking socket."""
    sock.sendall(head_of(frame))
    if frame.body:
        sock.sendall(frame.body)


def receive(sock: socket.socket) -> Frame:
    """Read one frame from a blocking socket.

    Raises:
        EOFError: the other side is gone.
    """
    head, body = LENGTHS.unpack(_exactly(sock, LENGTHS.size))
    return frame_of(_exactly(sock, head), _exactly(sock, body))


def _exactly(sock: socket.socket, size: int) -> bytes:
    """`size` bytes; the kernel fills them in one call where it can, so that a large body is held once."""
    data = sock.recv(size, socket.MSG_WAITALL) if size else b""
    while len(data) < size:
        more = sock.recv(size - len(data), socket.MSG_WAITALL)
        if not more:
            raise EOFError
        data += more
    return data
