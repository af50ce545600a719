"""How the web process and a worker talk: frames of a pickled head and a raw body over one socket.

The body travels beside the head, so that a table of 100 MB is neither pickled nor copied on its way.
"""

from __future__ import annotations

import asyncio
import pickle
import socket
import struct
from dataclasses import dataclass
from typing import Any

_LENGTHS = struct.Struct("!QQ")


@dataclass(frozen=True)
class Frame:
    """`kind` says what it is about; `number` which task; `value` is any picklable value; `body` raw bytes."""

    kind: str
    number: int = 0
    value: Any = None
    body: bytes = b""


def _head(frame: Frame) -> bytes:
    head = pickle.dumps((frame.kind, frame.number, frame.value), protocol=5)
    return _LENGTHS.pack(len(head), len(frame.body)) + head


def send(sock: socket.socket, frame: Frame) -> None:
    """Write one frame to a blocking socket."""
    sock.sendall(_head(frame))
    if frame.body:
        sock.sendall(frame.body)


def receive(sock: socket.socket) -> Frame:
    """Read one frame from a blocking socket.

    Raises:
        EOFError: the other side is gone.
    """
    head, body = _LENGTHS.unpack(_exactly(sock, _LENGTHS.size))
    kind, number, value = pickle.loads(_exactly(sock, head))  # noqa: S301 - both ends are this program, on a private socket pair
    return Frame(kind, number, value, _exactly(sock, body))


def _exactly(sock: socket.socket, size: int) -> bytes:
    """`size` bytes; the kernel fills them in one call where it can, so that a large body is held once."""
    data = sock.recv(size, socket.MSG_WAITALL) if size else b""
    while len(data) < size:
        more = sock.recv(size - len(data), socket.MSG_WAITALL)
        if not more:
            raise EOFError
        data += more
    return data


async def send_async(sock: socket.socket, frame: Frame) -> None:
    """Write one frame to a non-blocking socket."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, _head(frame))
    if frame.body:
        await loop.sock_sendall(sock, frame.body)


async def receive_async(sock: socket.socket) -> Frame:
    """Read one frame from a non-blocking socket.

    Raises:
        EOFError: the other side is gone.
    """
    loop = asyncio.get_running_loop()

    async def exactly(size: int) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            count = await loop.sock_recv_into(sock, view)
            if not count:
                raise EOFError
            view = view[count:]
        return data

    head, body = _LENGTHS.unpack(await exactly(_LENGTHS.size))
    kind, number, value = pickle.loads(await exactly(head))  # noqa: S301 - both ends are this program
    return Frame(kind, number, value, bytes(await exactly(body)) if body else b"")
