"""Clients that leave at random moments: no explanation runs on for nobody, and no worker or slot is lost.

python -m tests.soak.leavers [CLIENTS]
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time

from tests import graphs
from tests.soak.load import Connection, Service, metric, serving, tell

AT_ONCE = 8
PATIENCE_S = 0.4
WORK = json.dumps({"rows": [[10**12]]}).encode()  # would take weeks: whoever is answered 200 was not cancelled


async def _leave(service: Service, seconds: float) -> bool:
    """Whether an answer came after all."""
    connection = Connection(service)
    try:
        async with asyncio.timeout(seconds):
            answer = await connection.ask(
                "POST", "/v1/models/counter/predictions", WORK, Content_Type="application/json"
            )
    except TimeoutError:
        return False
    finally:
        connection.close()
    return answer.status == 200


async def _all(service: Service, clients: int) -> int:
    numbers, slots = random.Random(0), asyncio.Semaphore(AT_ONCE)

    async def one(seconds: float) -> bool:
        async with slots:
            return await _leave(service, seconds)

    return sum(await asyncio.gather(*(one(numbers.uniform(0, PATIENCE_S)) for _ in range(clients))))


def main(clients: int = 1000) -> None:
    with serving({"counter": graphs.counter()}, workers=2) as service:
        service.client.post("/v1/models/counter/predictions", json={"rows": [[1]]})
        workers = service.workers()
        completed = asyncio.run(_all(service, clients))
        left = time.perf_counter()
        while metric(service, "onnxplain_workers_busy"):
            time.sleep(0.005)
        idle_ms = (time.perf_counter() - left) * 1e3
        tell(
            "leavers",
            clients=clients,
            completed=completed,
            cancelled=metric(service, "onnxplain_pool_cancelled_total"),
            idle_ms=idle_ms,
            active=metric(service, "onnxplain_active"),
            queue=metric(service, "onnxplain_queue"),
            workers_killed=metric(service, "onnxplain_pool_killed_total"),
            same_workers=service.workers() == workers,
        )
        assert service.client.post("/v1/models/counter/predictions", json={"rows": [[2]]}).status_code == 200


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
