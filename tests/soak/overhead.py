"""What the service adds to its workers, and how near a saturated service comes to the bare runtime on the same cores.

python -m tests.soak.overhead
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import time

import numpy as np
import onnxruntime

from tests.conftest import DEMO_MODELS
from tests.soak.load import Client, percentile, picture, picture_model, serving, tell

REQUESTS = 300
SECONDS = 8.0


async def _alone(client: Client, path: str, body: bytes) -> tuple[list[float], list[float]]:
    """One request after the other: seconds as the client sees them, and the worker's own."""
    seen, own = [], []
    for number in range(REQUESTS):
        answer = await client.ask("POST", path, body, Content_Type="image/png", Cache_Control="no-store")
        assert answer.status == 200, answer.body
        if number >= 20:
            timings = answer.json()["timings_ms"]
            seen.append(answer.seconds)
            own.append((timings["decode"] + timings["run"] + timings["render"]) / 1e3)
    return seen, own


async def _saturated(client: Client, path: str, body: bytes, clients: int) -> float:
    """Requests a second when that many clients ask without pause."""
    deadline = time.perf_counter() + SECONDS
    count = 0

    async def ask() -> None:
        nonlocal count
        while time.perf_counter() < deadline:
            answer = await client.ask("POST", path, body, Content_Type="image/png", Cache_Control="no-store")
            assert answer.status == 200, answer.body
            count += 1

    started = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(clients)))
    return count / (time.perf_counter() - started)


def _bare(model: bytes, size: int, results: multiprocessing.Queue[float]) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((1, 3, size, size)).astype(np.float32)
    for _ in range(5):
        session.run(None, {"x": x})
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < SECONDS:
        session.run(None, {"x": x})
        count += 1
    results.put(count / (time.perf_counter() - started))


def bare_per_second(model: bytes, size: int, processes: int) -> float:
    """Forward runs a second of ONNX Runtime alone, one process a core."""
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[float] = context.Queue()
    runners = [context.Process(target=_bare, args=(model, size, results)) for _ in range(processes)]
    for runner in runners:
        runner.start()
    rates = [results.get() for _ in runners]
    for runner in runners:
        runner.join()
    return sum(rates)


def main() -> None:
    with serving() as service:
        for model, sample in (("digits", "7.png"), ("shapes", "triangle.png")):
            body = (DEMO_MODELS / model / "samples" / sample).read_bytes()
            seen, own = asyncio.run(_alone(Client(service), f"/v1/models/{model}/explanations/gradcam", body))
            added = [a - b for a, b in zip(seen, own, strict=True)]
            tell(
                "overhead",
                model=model,
                seen_ms=percentile(seen, 50),
                worker_ms=percentile(own, 50),
                added_ms=percentile(added, 50),
            )
    cores = os.cpu_count() or 1
    for width in (64, 128):  # about 25 and 100 ms of one core; the latter is what a ResNet-50 takes
        heavy, size = picture_model(width=width, size=128), 128
        for _ in range(3):
            before = bare_per_second(heavy.SerializeToString(), size, cores)
            with serving({"heavy": heavy}, workers=cores) as service:
                rate = asyncio.run(
                    _saturated(Client(service), "/v1/models/heavy/predictions", picture(size, size), 2 * cores)
                )
            bare = (before + bare_per_second(heavy.SerializeToString(), size, cores)) / 2
            tell("throughput", width=width, bare_per_s=bare, service_per_s=rate, share=rate / bare)


if __name__ == "__main__":
    main()
