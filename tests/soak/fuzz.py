"""Twenty thousand requests made from the OpenAPI document, over all operations and phases.

python -m tests.soak.fuzz [CASES]
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile

from tests.fuzzing import cases, command
from tests.soak.load import metric, serving, tell


def main(wanted: int = 20_000) -> None:
    made = seed = 0
    with serving(max_cost=1) as service, tempfile.TemporaryDirectory() as folder:
        while made < wanted:
            line = command(service.url, 60, "examples,coverage,fuzzing,stateful", [], seed)
            run = subprocess.run(line, capture_output=True, text=True, check=False, cwd=folder)
            assert run.returncode == 0, run.stdout[-6000:]
            made += cases(run.stdout)
            seed += 1
            tell("fuzz", cases=made, crashes=metric(service, "onnxplain_pool_crashes_total"))
        text = service.client.get("/metrics").text
    statuses: dict[str, int] = {}
    for status, count in re.findall(r'onnxplain_request_seconds_count\{[^}]*status="(\d+)"\} (\d+)', text):
        statuses[status] = statuses.get(status, 0) + int(count)
    tell("fuzz: statuses", **dict(sorted(statuses.items())))
    assert not any(status.startswith("5") and status != "503" for status in statuses)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
