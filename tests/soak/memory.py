"""Many requests of many shapes: resident memory, open files and threads before and after.

python -m tests.soak.memory [REQUESTS]
"""

from __future__ import annotations

import asyncio
import json
import random
import sys

import numpy as np
from tests.soak.load import Client, Service, descriptors_and_threads, picture, resident, serving, tell

CLIENTS = 8
PICTURE_METHODS = ("gradcam", "layercam", "hirescam", "eigencam", "activation", "saliency", "gradcam-plusplus")


def requests(count: int) -> list[tuple[str, bytes, str]]:
    """Requests of 200 different shapes, some of which must be refused."""
    numbers, random_numbers = random.Random(0), np.random.default_rng(0)
    pictures = [picture(int(h), int(w), seed) for seed, (h, w) in enumerate(random_numbers.integers(8, 300, (100, 2)))]
    tables = []
    for columns, model in ((10, "diabetes"), (30, "breast-cancer")):
        for rows in random_numbers.integers(1, 400, 40):
            cells = random_numbers.integers(-100, 100, (int(rows), columns)).tolist()
            tables.append((model, json.dumps({"rows": cells}).encode()))
    broken = [b"", b"{", b"[NaN]", pictures[0][:200], b"\x89PNG\r\n\x1a\n" + bytes(1000)]
    made = []
    for number in range(count):
        match number % 4:
            case 0 | 1:
                method = f"explanations/{numbers.choice(PICTURE_METHODS)}" if number % 3 else "predictions"
                path = f"/v1/models/{numbers.choice(('digits', 'shapes'))}/{method}"
                made.append((path, numbers.choice(pictures), "image/png"))
            case 2:
                model, body = numbers.choice(tables)
                made.append((f"/v1/models/{model}/predictions", body, "application/json"))
            case _:
                kind = numbers.choice(("image/png", "application/json"))
                made.append(("/v1/models/digits/explanations/gradcam", numbers.choice(broken), kind))
    return made


async def _send(service: Service, todo: list[tuple[str, bytes, str]]) -> dict[int, int]:
    client, statuses = Client(service), dict[int, int]()
    queue = iter(todo)

    async def work() -> None:
        for path, body, kind in queue:
            answer = await client.ask("POST", path, body, Content_Type=kind, Cache_Control="no-store")
            statuses[answer.status] = statuses.get(answer.status, 0) + 1

    await asyncio.gather(*(work() for _ in range(CLIENTS)))
    client.close()
    return statuses


def _figures(service: Service) -> dict[str, float]:
    processes = [service.process.pid, *service.workers()]
    files, threads = zip(*(descriptors_and_threads(pid) for pid in processes), strict=True)
    sizes = [resident(pid) for pid in processes]
    return {"web_mib": sizes[0], "workers_mib": sum(sizes[1:]), "files": sum(files), "threads": sum(threads)}


def main(count: int = 100_000, settle: int = 10_000) -> None:
    todo = requests(min(count, 10_000))
    with serving(cache=64) as service:
        asyncio.run(_send(service, (todo * (settle // len(todo) + 1))[:settle]))
        before = _figures(service)
        tell("memory: warm", requests=settle, **before)
        sent, statuses = 0, {}
        while sent < count:
            part = todo[: min(len(todo), count - sent)]
            statuses = asyncio.run(_send(service, part))
            sent += len(part)
            tell("memory", requests=sent, statuses=statuses, **_figures(service))
        after = _figures(service)
        growth = after["web_mib"] + after["workers_mib"] - before["web_mib"] - before["workers_mib"]
        tell("memory: growth", requests=sent, grown_mib=growth, files=after["files"] - before["files"],
             threads=after["threads"] - before["threads"])  # fmt: skip


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
