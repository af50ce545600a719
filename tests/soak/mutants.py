"""Two thousand copies of good models with a few bytes changed: a verdict for each within ten seconds.

python -m tests.soak.mutants [COUNT]
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests import graphs
from tests.conftest import DEMO_MODELS
from tests.hostile.models import mutants
from tests.hostile.test_models import FOUR, verdict
from tests.soak.load import percentile, tell

from onnxplain.facts.errors import ExplainError
from onnxplain.facts.tasks import WorkerLimits
from onnxplain.workers.pool import Pool, PoolLimits


async def _judge(good: dict[str, bytes], count: int, path: Path) -> None:
    pool = Pool(PoolLimits(workers=1, worker=WorkerLimits(memory_bytes=FOUR, models=2, probe=True)))
    await pool.start()
    outcomes, seconds = Counter[str](), list[float]()
    for name, model in good.items():
        for number, content in enumerate(mutants(model, count // len(good))):
            await asyncio.to_thread(path.write_bytes, content)
            started = time.perf_counter()
            refusal = await verdict(pool, path, f"{name}-{number}", 10)
            seconds.append(time.perf_counter() - started)
            outcomes[type(refusal).__name__ if refusal else "served"] += 1
            if type(refusal) is ExplainError:
                tell("mutants: unforeseen", model=name, number=number)
    tell("mutants", count=len(seconds), p50_ms=percentile(seconds, 50), slowest_s=max(seconds), crashes=pool.counts["crashes"],
         **outcomes)  # fmt: skip
    await pool.stop()


def main(count: int = 2000) -> None:
    good = {path.parent.name: path.read_bytes() for path in sorted(DEMO_MODELS.glob("*/model.onnx"))}
    good |= {"tiny": graphs.tiny_cnn().SerializeToString(), "counter": graphs.counter().SerializeToString()}
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_judge(good, count, Path(folder) / "model.onnx"))


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
