"""Five hundred slow sockets: all are closed by their deadline and two seconds, and others are served meanwhile.

python -m tests.soak.slow_clients [SOCKETS]
"""

from __future__ import annotations

import asyncio
import sys
import time

from tests.soak.load import Client, Service, percentile, serving, tell

HEADERS_S, BODY_S = 5.0, 8.0
POST = b"POST /v1/models/digits/explanations/gradcam HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
KINDS = {
    "silent": (b"", b"", HEADERS_S),
    "headers": (b"GET / HTTP/1.1\r\n", b"A: b\r\n", HEADERS_S),
    "body": (POST + b"Content-Length: 100000\r\n\r\n", b"x", BODY_S),
    "chunks": (POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", BODY_S),
}


async def _slow(service: Service, kind: str) -> float:
    """Seconds beyond the deadline until the server closed."""
    first, trickle, deadline = KINDS[kind]
    started = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(first)
    try:
        while not reader.at_eof():
            if trickle:
                writer.write(trickle)
            try:
                async with asyncio.timeout(0.5):
                    await reader.read(65536)
            except TimeoutError:
                continue
    except OSError:
        pass
    writer.close()
    return time.perf_counter() - started - deadline


async def _run(service: Service, sockets: int) -> None:
    client, health, answers = Client(service), list[float](), list[int]()
    body = b"\x89PNG"

    async def watch() -> None:
        while True:
            health.append((await client.ask("GET", "/health/live")).seconds)
            answers.append(
                (
                    await client.ask("POST", "/v1/models/digits/explanations/gradcam", body, Content_Type="image/png")
                ).status
            )
            await asyncio.sleep(0.02)

    watcher = asyncio.ensure_future(watch())
    kinds = [list(KINDS)[number % len(KINDS)] for number in range(sockets)]
    late = await asyncio.gather(*(_slow(service, kind) for kind in kinds))
    watcher.cancel()
    tell("slow clients", sockets=sockets, latest_s=max(late), health_p99_ms=percentile(health, 99), asked_meanwhile=len(answers),
         answers=sorted(set(answers)))  # fmt: skip


def main(sockets: int = 500) -> None:
    with serving(header_timeout=HEADERS_S, body_timeout=BODY_S) as service:
        asyncio.run(_run(service, sockets))


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
