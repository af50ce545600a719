"""The web process's end of a worker's socket: whole frames out and in, as steps of the event loop.

Why not asyncio's streams: a worker that has answered stands idle until its next task comes. Here a frame leaves in the
very step that has it, and one that came is there in one step, with no turn of the loop for each of its parts; and a body
of 100 MB goes to the kernel as it stands, without a copy.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import socket
from collections import deque
from collections.abc import Callable, Generator
from itertools import islice

from onnxplain.workers.frames import LENGTHS, MOST, Frame, frame_of, head_of

log = logging.getLogger("onnxplain.pool")


class Channel:
    """Sends and receives frames. Make it inside a running event loop.

    Args:
        sock: one end of a socket pair; the channel closes it.
        on_frame: takes each frame that comes.
        on_lost: called when the other side is gone, or no longer itself.
    """

    def __init__(self, sock: socket.socket, on_frame: Callable[[Frame], None], on_lost: Callable[[], None]) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._unsent: deque[memoryview] = deque()
        self._frames = self._receive()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._read)

    def send(self, frame: Frame) -> None:
        """Send a frame: at once as far as the kernel takes it, the rest as it takes more."""
        at_once = not self._unsent
        self._unsent.extend(memoryview(part) for part in (head_of(frame), frame.body) if part)
        if at_once:
            self._write()

    def close(self) -> None:
        """Close the socket; what was not sent yet is dropped."""
        self._rest()
        self._sock.close()

    def _write(self) -> None:
        try:
            while self._unsent:
                sent = self._sock.sendmsg(islice(self._unsent, 2))
                while self._unsent and sent >= len(self._unsent[0]):
                    sent -= len(self._unsent.popleft())
                if sent:
                    self._unsent[0] = self._unsent[0][sent:]
            self._loop.remove_writer(self._sock)
        except BlockingIOError:
            self._loop.add_writer(self._sock, self._write)
        except OSError:
            self._lose()

    def _read(self) -> None:
        try:
            frame = next(self._frames)
        except pickle.UnpicklingError:
            log.exception("a worker sent what is no frame")
            self._lose()
        except (EOFError, OSError):
            self._lose()
        else:
            if frame is not None:
                self._on_frame(frame)

    def _receive(self) -> Generator[Frame | None]:
        """Each frame when it is complete, and None when there is nothing to read.

        Raises:
            EOFError: the other side is gone, or sends what is no frame.
        """
        while True:
            head, body = LENGTHS.unpack((yield from self._exactly(LENGTHS.size)))
            if max(head, body) > MOST:
                raise EOFError
            data = yield from self._exactly(head + body)
            yield frame_of(data[:head], bytes(data[head:]))

    def _exactly(self, size: int) -> Generator[None, None, bytearray]:
        data = bytearray(size)
        room = memoryview(data)
        while room:
            try:
                count = self._sock.recv_into(room)
            except BlockingIOError:
                yield None
                continue
            if not count:
                raise EOFError
            room = room[count:]
        return data

    def _lose(self) -> None:
        self._rest()
        self._on_lost()

    def _rest(self) -> None:
        """Ask nothing more of the socket."""
        self._unsent.clear()
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
