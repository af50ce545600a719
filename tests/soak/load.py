"""Load for the soak runs: a small HTTP client that costs little beside the service, and ways to send many requests."""

from __future__ import annotations

import asyncio
import io
import json
import random
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from PIL import Image
from tests import graphs
from tests.conftest import Service, running


@dataclass(frozen=True)
class Answer:
    """What came back, and how long that took. Status 0: the connection broke before an answer."""

    status: int
    seconds: float
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Connection(asyncio.Protocol):
    """One kept connection; it reconnects by itself when the server has closed it between two requests.

    A protocol rather than streams, at half the processor time: what the load takes, the service lacks.
    """

    def __init__(self, service: Service) -> None:
        self._port = service.port
        self._transport: asyncio.Transport | None = None
        self._data = bytearray()
        self._head: tuple[int, dict[str, str]] | None = None
        self._body_bytes = 0
        self._came: asyncio.Future[None] | None = None
        self._answered = False  # on the connection that is open now

    async def open(self) -> None:
        """Connect.

        Raises:
            OSError: nobody listens.
        """
        self._transport, _ = await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", self._port)

    async def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """Send a request and read the answer; once more when a kept connection had just been closed for idleness."""
        idle = self._answered
        answer = await self._ask(method, path, body, **headers)
        return await self._ask(method, path, body, **headers) if idle and not answer.status else answer

    async def _ask(self, method: str, path: str, body: bytes, **headers: str) -> Answer:
        started = time.perf_counter()
        try:
            if self._transport is None:
                await self.open()
            assert self._transport is not None
            self._data, self._head, self._came = bytearray(), None, asyncio.get_running_loop().create_future()
            lines = "".join(f"{name.replace('_', '-')}: {text}\r\n" for name, text in headers.items())
            head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n{lines}\r\n"
            self._transport.write(head.encode() + body)
            await self._came
        except OSError:
            self.close()
            return Answer(0, time.perf_counter() - started, {}, b"")
        except BaseException:
            self.close()
            raise
        assert self._head is not None
        status, found = self._head
        self._answered = True
        if found.get("connection") == "close":
            self.close()
        return Answer(status, time.perf_counter() - started, found, bytes(self._data))

    def data_received(self, data: bytes) -> None:
        self._data += data
        if self._head is None and (end := self._data.find(b"\r\n\r\n")) >= 0:
            self._head = _head(self._data[:end])
            self._body_bytes = int(self._head[1].get("content-length", 0))
            del self._data[: end + 4]
        if self._head is not None and len(self._data) >= self._body_bytes and self._came and not self._came.done():
            self._came.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport, self._answered = None, False
        if self._came is not None and not self._came.done():
            self._came.set_exception(error or ConnectionResetError())

    def close(self) -> None:
        """Close; what has not come yet does not come."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None
        self._answered = False


def _head(head: bytearray) -> tuple[int, dict[str, str]]:
    status, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    return int(status.split()[1]), {name.lower(): text.strip() for name, _, text in pairs}


class Client:
    """Many connections, taken and given back."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._free: list[Connection] = []

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        connection = self._free.pop() if self._free else Connection(self._service)
        try:
            yield connection
        finally:
            self._free.append(connection)

    async def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        async with self.connection() as connection:
            return await connection.ask(method, path, body, **headers)

    def close(self) -> None:
        for connection in self._free:
            connection.close()


async def arrivals(rate: float, seconds: float, seed: int = 0) -> AsyncIterator[int]:
    """Poisson arrivals: they come when they come, whether or not the last one was answered."""
    random_numbers = random.Random(seed)
    started = due = time.perf_counter()
    number = 0
    while due - started < seconds:
        due += random_numbers.expovariate(rate)
        if due > time.perf_counter():
            await asyncio.sleep(due - time.perf_counter())
        yield number
        number += 1


def picture_model(width: int = 32, size: int = 96) -> onnx.ModelProto:
    """A CNN with random weights that takes some ten milliseconds on one core (`width` and `size` decide)."""
    random_numbers = np.random.default_rng(0)
    constants, nodes = {}, []
    last, channels = "x", 3
    for layer, out in enumerate((width, width, 2 * width, 2 * width, 4 * width, 4 * width)):
        scale = np.sqrt(2 / (channels * 9))
        constants[f"w{layer}"] = (random_numbers.standard_normal((out, channels, 3, 3)) * scale).astype(np.float32)
        stride = 2 if layer in (2, 4) else 1
        nodes += [
            graphs.node("Conv", [last, f"w{layer}"], [f"c{layer}"], pads=[1, 1, 1, 1], strides=[stride, stride]),
            graphs.node("Relu", [f"c{layer}"], [f"r{layer}"]),
        ]
        last, channels = f"r{layer}", out
    constants["head"] = random_numbers.standard_normal((10, channels)).astype(np.float32)
    nodes += [
        graphs.node("GlobalAveragePool", [last], ["means"]),
        graphs.node("Flatten", ["means"], ["flat"]),
        graphs.node("Gemm", ["flat", "head"], ["scores"], transB=1),
    ]
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 3, size, size])
    scores = onnx.helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["N", 10])
    return graphs.model(nodes, [x], [scores], constants)


def picture(height: int = 96, width: int = 96, seed: int = 0) -> bytes:
    """A PNG of noise."""

    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


@contextmanager
def serving(models: dict[str, onnx.ModelProto] | None = None, **settings: Any) -> Iterator[Service]:
    """The service with these models (default: the demo models), in a folder that goes when it ends."""
    with tempfile.TemporaryDirectory() as folder:
        chosen: dict[str, Any] = {}
        if models is not None:
            chosen["models"] = Path(folder) / "models"
            for name, model in models.items():
                (chosen["models"] / name).mkdir(parents=True)
                onnx.save(model, chosen["models"] / name / "model.onnx")
        with running(Path(folder) / "log", **chosen, **settings) as service:
            yield service


def metric(service: Service, name: str) -> float:
    """A figure of /metrics, summed over its labels."""
    lines = service.client.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((name + " ", name + "{")))


def resident(pid: int) -> float:
    """Resident MiB of a process, what it shares with others counted in part."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def descriptors_and_threads(pid: int) -> tuple[int, int]:
    """Open files and threads of a process."""
    process = Path(f"/proc/{pid}")
    return len(list((process / "fd").iterdir())), len(list((process / "task").iterdir()))


def percentile(seconds: list[float], percent: float) -> float:
    """In milliseconds."""
    return float(np.percentile(seconds, percent)) * 1e3 if seconds else float("nan")


def tell(name: str, **figures: object) -> None:
    """One line a figure."""
    rounded = {key: round(value, 3) if isinstance(value, float) else value for key, value in figures.items()}
    print(json.dumps({"run": name} | rounded), flush=True)
