"""Four times more requests than the service can answer: what is answered, how fast, and how fast the rest is refused.

    python -m tests.soak.overload [SECONDS]

Open loop: requests come when they come. Three phases: 80 % of capacity, 400 %, and 80 % again to see it recover.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass, field

from tests.soak.load import Client, arrivals, percentile, picture, picture_model, serving, tell

PATH = "/v1/models/heavy/explanations/gradcam"
SIZE = 128


@dataclass
class Phase:
    """What came back while a phase lasted."""

    accepted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    others: list[int] = field(default_factory=list)
    health: list[float] = field(default_factory=list)
    bare_refusals: int = 0  # without Retry-After


async def _capacity(client: Client, body: bytes, seconds: float) -> float:
    deadline, count = time.perf_counter() + seconds, 0

    async def ask() -> None:
        nonlocal count
        while time.perf_counter() < deadline:
            answer = await client.ask("POST", PATH, body, Content_Type="image/png", Cache_Control="no-store")
            count += answer.status == 200

    await asyncio.gather(*(ask() for _ in range(6)))
    return count / seconds


async def _phase(client: Client, body: bytes, rate: float, seconds: float) -> Phase:
    phase = Phase()

    async def one() -> None:
        answer = await client.ask("POST", PATH, body, Content_Type="image/png", Cache_Control="no-store")
        if answer.status == 200:
            phase.accepted.append(answer.seconds)
        elif answer.status in (429, 503):
            phase.refused.append(answer.seconds)
            phase.bare_refusals += "retry-after" not in answer.headers
        else:
            phase.others.append(answer.status)

    async def watch() -> None:
        while True:
            phase.health.append((await client.ask("GET", "/health/live")).seconds)
            await asyncio.sleep(0.05)

    watcher = asyncio.ensure_future(watch())
    tasks = [asyncio.ensure_future(one()) async for _ in arrivals(rate, seconds)]
    await asyncio.gather(*tasks)
    watcher.cancel()
    return phase


async def _run(client: Client, seconds: float) -> None:
    body = picture(SIZE, SIZE)
    await _capacity(client, body, 3)
    capacity = await _capacity(client, body, min(10, seconds))
    calm_p99 = 0.0
    for name, share in (("calm", 0.8), ("overload", 4.0), ("after", 0.8)):
        phase = await _phase(client, body, share * capacity, seconds)
        calm_p99 = calm_p99 or percentile(phase.accepted, 99)
        tell(
            f"overload: {name}",
            capacity_per_s=capacity,
            offered=share,
            goodput=len(phase.accepted) / seconds / capacity,
            accepted=len(phase.accepted),
            p50_ms=percentile(phase.accepted, 50),
            p99_ms=percentile(phase.accepted, 99),
            p99_to_calm=percentile(phase.accepted, 99) / calm_p99,
            refused=len(phase.refused),
            refusal_p50_ms=percentile(phase.refused, 50),
            refusal_p99_ms=percentile(phase.refused, 99),
            without_retry_after=phase.bare_refusals,
            health_p99_ms=percentile(phase.health, 99),
            other_answers=phase.others,
        )
    client.close()


def main(seconds: float = 60) -> None:
    with serving({"heavy": picture_model(width=64, size=SIZE)}) as service:
        asyncio.run(_run(Client(service), seconds))


if __name__ == "__main__":
    main(*(float(argument) for argument in sys.argv[1:]))
