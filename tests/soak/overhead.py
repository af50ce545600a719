"""What the service adds to its workers, and how near a saturated service comes to the bare runtime on the same cores.

python -m tests.soak.overhead [FOLDER]

Bare runtime and service take turns of some seconds, so that both meet the machine in the same moods. FOLDER holds a
`model.onnx` and its `model.toml`: then that model alone is measured.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from tests.conftest import DEMO_MODELS, Service, running
from tests.soak.load import Client, percentile, picture, picture_model, serving, tell

REQUESTS = 300
SECONDS = 4.0
TURNS = 8


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


def _bare(model: bytes, turns: multiprocessing.Queue[bool], results: multiprocessing.Queue[float]) -> None:
    """A process: forward runs of ONNX Runtime alone, for a while whenever it is its turn; how many a second."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    x = np.random.default_rng(0).standard_normal((1, *entry.shape[1:])).astype(np.float32)
    for _ in range(5):
        session.run(None, {entry.name: x})
    results.put(0.0)
    while turns.get():
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < SECONDS:
            session.run(None, {entry.name: x})
            count += 1
        results.put(count / (time.perf_counter() - started))


@contextmanager
def bare_runtime(model: bytes, processes: int) -> Iterator[Callable[[], float]]:
    """One process a core; what is given lets them run, and says how many forward runs a second they made together."""
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[float] = context.Queue()
    turns: list[multiprocessing.Queue[bool]] = [context.Queue() for _ in range(processes)]
    runners = [context.Process(target=_bare, args=(model, turn, results)) for turn in turns]
    for runner in runners:
        runner.start()
    for _ in runners:
        results.get()  # ready

    def run() -> float:
        for turn in turns:
            turn.put(True)
        return sum(results.get() for _ in turns)

    try:
        yield run
    finally:
        for turn in turns:
            turn.put(False)
        for runner in runners:
            runner.join()


def _throughput(name: str, folder: Path, cores: int) -> None:
    """Predictions and Grad-CAM a second beside forward runs a second, in turn."""
    model = (folder / "model.onnx").read_bytes()
    with tempfile.TemporaryDirectory() as scratch, bare_runtime(model, cores) as bare:
        shutil.copytree(folder, Path(scratch) / "models" / "heavy")
        with running(Path(scratch) / "log", models=Path(scratch) / "models", workers=cores) as service:
            sides = service.client.get("/v1/models/heavy").json()["preprocessing"]["size"]
            for task in ("predictions", "explanations/gradcam"):
                alone, served = [], []
                for _ in range(TURNS):
                    alone.append(bare())
                    served.append(_requests_per_second(service, f"/v1/models/heavy/{task}", picture(*sides), 2 * cores))
                shares = sorted(mine / base for mine, base in zip(served, alone, strict=True))
                tell(
                    "throughput",
                    model=name,
                    task=task,
                    bare_per_s=statistics.median(alone),
                    service_per_s=statistics.median(served),
                    share=statistics.median(shares),
                    least=shares[0],
                    most=shares[-1],
                )


def _requests_per_second(service: Service, path: str, body: bytes, clients: int) -> float:
    return asyncio.run(_saturated(Client(service), path, body, clients))


def main() -> None:
    cores = os.cpu_count() or 1
    if len(sys.argv) > 1:
        _throughput(Path(sys.argv[1]).name, Path(sys.argv[1]), cores)
        return
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
    for width in (64, 128):  # about 25 and 100 ms of one core; a ResNet-50 takes 50 to 100
        with tempfile.TemporaryDirectory() as folder:
            onnx.save(picture_model(width=width, size=128), Path(folder) / "model.onnx")
            _throughput(f"width {width}", Path(folder), cores)


if __name__ == "__main__":
    main()
