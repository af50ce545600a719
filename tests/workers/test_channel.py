"""Frames cross between an event loop and a blocking process whole and in order, however large and however cut."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from onnxplain.workers.channel import Channel
from onnxplain.workers.frames import LENGTHS, MOST, Frame, head_of, receive


class Meeting:
    """A channel, the far end of its socket, and what comes of it."""

    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair()
        self.frames: asyncio.Queue[Frame] = asyncio.Queue()
        self.lost = asyncio.Event()
        self.channel = Channel(ours, self.frames.put_nowait, self.lost.set)


@asynccontextmanager
async def meeting() -> AsyncIterator[Meeting]:
    met = Meeting()
    with met.theirs:
        async with asyncio.timeout(10):
            yield met
    met.channel.close()


def test_frames_come_out_the_same_byte_by_byte_or_all_at_once() -> None:
    async def scene() -> None:
        sent = [Frame("progress", 3, 0.5), Frame("done", 3, {"scores": [1.0, 2.0]}, b"body"), Frame("error", 4)]
        raw = b"".join(head_of(frame) + frame.body for frame in sent)
        async with meeting() as met:
            for byte in raw:
                met.theirs.send(bytes([byte]))
                await asyncio.sleep(0)
            met.theirs.send(raw)
            assert [await met.frames.get() for _ in range(6)] == [*sent, *sent]

    asyncio.run(scene())


def test_a_body_larger_than_the_socket_holds_does_not_stop_the_loop_and_keeps_its_place() -> None:
    async def scene() -> None:
        body = os.urandom(20_000_000)
        async with meeting() as met:
            met.channel.send(Frame("run", 1, "first", body))
            met.channel.send(Frame("cancel", 1))
            both = await asyncio.to_thread(lambda: (receive(met.theirs), receive(met.theirs)))
            assert both == (Frame("run", 1, "first", body), Frame("cancel", 1))

    asyncio.run(scene())


@pytest.mark.parametrize("crafted", [b"", LENGTHS.pack(3, 0) + b"\x80\x05.", LENGTHS.pack(MOST + 1, 0)])
def test_an_end_that_closes_or_sends_what_is_no_frame_is_lost(crafted: bytes) -> None:
    async def scene() -> None:
        async with meeting() as met:
            met.theirs.sendall(crafted)
            met.theirs.shutdown(socket.SHUT_WR)
            await met.lost.wait()
            assert met.frames.empty()

    asyncio.run(scene())


def test_a_task_for_an_end_that_has_gone_is_lost_not_raised() -> None:
    async def scene() -> None:
        async with meeting() as met:
            met.theirs.close()
            met.channel.send(Frame("run", 1))
            await met.lost.wait()

    asyncio.run(scene())
