"""Twenty models instead of one, at the same load: how much later the slowest answers come.

python -m tests.soak.many_models [SECONDS]
"""

from __future__ import annotations

import asyncio
import sys
import time

from tests.soak.load import Client, Service, percentile, picture, picture_model, resident, serving, tell

CLIENTS = 8
SIZE = 96


async def _load(service: Service, names: list[str], seconds: float) -> list[float]:
    client, body, found = Client(service), picture(SIZE, SIZE), list[float]()
    deadline = time.perf_counter() + seconds

    async def ask(number: int) -> None:
        while time.perf_counter() < deadline:
            number += 1
            answer = await client.ask(
                "POST",
                f"/v1/models/{names[number % len(names)]}/explanations/gradcam",
                body,
                Content_Type="image/png",
                Cache_Control="no-store",
            )
            assert answer.status == 200, answer.body
            found.append(answer.seconds)

    await asyncio.gather(*(ask(number) for number in range(CLIENTS)))
    client.close()
    return found


def main(seconds: float = 20) -> None:
    names = [f"m{number}" for number in range(20)]
    model = picture_model(width=32, size=SIZE)
    p99 = {}
    with serving(dict.fromkeys(names, model), workers=2) as service:
        for turn in range(3):  # by turns, because the machine changes too
            for count in (1, 20):
                found = asyncio.run(_load(service, names[:count], seconds / 3))
                p99.setdefault(count, []).append(percentile(found, 99))
                tell(
                    "many models",
                    turn=turn,
                    models=count,
                    requests=len(found),
                    p50_ms=percentile(found, 50),
                    p99_ms=p99[count][-1],
                )
        sizes = [resident(pid) for pid in service.workers()]
    best = {count: sorted(values)[1] for count, values in p99.items()}
    tell("many models: ratio", p99_twenty_to_one=best[20] / best[1], worker_mib=max(sizes))


if __name__ == "__main__":
    main(*(float(argument) for argument in sys.argv[1:]))
