"""A model replaced again and again under load: no request fails, and each answer names the file that made it.

python -m tests.soak.swaps [SWAPS]
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import time

import numpy as np
import onnx
from tests import graphs
from tests.soak.load import Client, Service, percentile, serving, tell

CLIENTS = 16
KEY = "admin-key-0123456789"


def linear(slope: float) -> onnx.ModelProto:
    """A model that says `slope` times x."""
    value = np.zeros((1, 1), np.float32)
    nodes = [graphs.node("Mul", ["x", "slope"], ["y"])]
    x, y = (graphs.value(name, value, dynamic_batch=True) for name in "xy")
    return graphs.model(nodes, [x], [y], {"slope": np.array([slope], np.float32)})


async def _run(service: Service, swaps: int) -> None:
    models = [linear(slope).SerializeToString() for slope in range(1, 8)]
    slopes = {hashlib.sha256(model).hexdigest(): slope for slope, model in enumerate(models, 1)}
    client, stop = Client(service), asyncio.Event()
    seconds: list[float] = []
    wrong: list[str] = []

    async def ask() -> None:
        while not stop.is_set():
            answer = await client.ask(
                "POST",
                "/v1/models/m/predictions",
                b'{"rows": [[3]]}',
                Content_Type="application/json",
                Cache_Control="no-store",
            )
            seconds.append(answer.seconds)
            document = json.loads(answer.body) if answer.body else {}
            if answer.status != 200 or document["predictions"] != [3 * slopes[document["model"]["sha256"]]]:
                wrong.append(f"{answer.status} {answer.body[:300]!r}")
            await asyncio.sleep(0.02)

    askers = [asyncio.ensure_future(ask()) for _ in range(CLIENTS)]
    refused, started = [], time.perf_counter()
    for number in range(swaps):
        model = models[(number + 1) % len(models)]
        body = b'--x\r\nContent-Disposition: form-data; name="model"; filename="m"\r\n\r\n' + model + b"\r\n--x--\r\n"
        answer = await client.ask(
            "PUT", "/v1/models/m", body, Content_Type="multipart/form-data; boundary=x", X_API_Key=KEY
        )
        if answer.status != 200:
            refused.append(answer.body[:300])
    swap_s = (time.perf_counter() - started) / swaps
    stop.set()
    await asyncio.gather(*askers)
    client.close()
    tell("swaps", swaps=swaps, swaps_refused=len(refused), requests=len(seconds), failed_or_wrong=len(wrong),
         p99_ms=percentile(seconds, 99), seconds_a_swap=swap_s, examples=wrong[:2], refusals=[str(r) for r in refused[:2]])  # fmt: skip


def main(swaps: int = 200) -> None:
    with serving({"m": linear(1)}, uploads=True, admin_key=KEY, probe_timeout=30, queue=64) as service:
        asyncio.run(_run(service, swaps))


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
