"""SIGTERM under load, again and again: what was accepted is answered, readiness says no at once, the exit code is 0.

python -m tests.soak.drains [TIMES]
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time

from tests import graphs
from tests.soak.load import Answer, Client, Connection, Service, percentile, serving, tell

CLIENTS = 6


async def _scene(service: Service) -> tuple[list[Answer], float]:
    """Every answer, and the seconds until readiness said no."""
    client, answers, gone = Client(service), list[Answer](), asyncio.Event()

    async def ask(number: int) -> None:
        """Each on its own connections; a refused new connection is no lost request: nobody accepted it."""
        while not gone.is_set():
            body = json.dumps({"rows": [[60_000 + number]]}).encode()
            try:
                connection = Connection(service)
                await connection.open()
            except OSError:
                return
            answer = await connection.ask(
                "POST",
                "/v1/models/counter/predictions",
                body,
                Content_Type="application/json",
                Cache_Control="no-store",
            )
            connection.close()
            answers.append(answer)

    askers = [asyncio.ensure_future(ask(number)) for number in range(CLIENTS)]
    await asyncio.sleep(0.4)
    watcher = Connection(service)
    await watcher.ask("GET", "/health/ready")
    service.process.send_signal(signal.SIGTERM)
    told = time.perf_counter()
    while (await watcher.ask("GET", "/health/ready")).status == 200:
        pass
    not_ready_s = time.perf_counter() - told
    gone.set()
    await asyncio.gather(*askers)
    client.close()
    watcher.close()
    return answers, not_ready_s


def main(times: int = 50) -> None:
    lost = answered = refused = 0
    not_ready: list[float] = []
    for _ in range(times):
        with serving({"counter": graphs.counter()}, workers=2) as service:
            answers, seconds = asyncio.run(_scene(service))
            assert service.process.wait(30) == 0
        lost += sum(answer.status == 0 for answer in answers)
        answered += sum(answer.status == 200 for answer in answers)
        refused += sum(answer.status == 503 for answer in answers)
        not_ready.append(seconds)
    tell(
        "drains", times=times, answered=answered, refused=refused, lost=lost, not_ready_p99_ms=percentile(not_ready, 99)
    )


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
