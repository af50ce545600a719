"""Requests made from the OpenAPI document by schemathesis, right and wrong ones: no answer of 500, none undocumented."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import Service, running

EXAMPLES = 200  # an operation, beside those of the coverage phase
SHARES = 2  # schemathesis makes its requests on one core
# Bytes cannot be described by a schema: random ones are no picture, and are rightly refused.
EXCLUDED = "positive_data_acceptance"


def command(url: str, examples: int, phases: str, operations: list[str], seed: int) -> list[str]:
    """Schemathesis's command line; it fails when it finds anything."""
    chosen = [argument for name in operations for argument in ("--include-operation-id", name)]
    return [
        str(Path(sys.executable).parent / "schemathesis"), "run", f"{url}/openapi.json", *chosen,
        "--phases", phases, "--max-examples", str(examples), "--checks", "all", "--exclude-checks", EXCLUDED,
        "--max-response-time", "60", "--suppress-health-check", "all", "--no-color", "--generation-database", "none",
        "--seed", str(seed),
    ]  # fmt: skip


def cases(report: str) -> int:
    """How many requests a report is about."""
    found = re.search(r"(\d+) generated", report)
    assert found, report[-2000:]
    return int(found[1])


class Fuzzing:
    """Schemathesis at work on all operations of a service, in the background."""

    def __init__(self, service: Service, folder: Path) -> None:
        self.service = service
        self.workers = service.workers()
        paths = service.client.get("/openapi.json").json()["paths"]
        names = sorted(operation["operationId"] for path in paths.values() for operation in path.values())
        self._runs = []
        for share in range(SHARES):
            (folder / str(share)).mkdir()  # schemathesis writes its notes where it runs
            line = command(service.url, EXAMPLES, "coverage,fuzzing", names[share::SHARES], seed=1)
            report = folder / str(share) / "report"
            with report.open("wb") as stream:
                run = subprocess.Popen(line, stdout=stream, stderr=subprocess.STDOUT, cwd=report.parent)
            self._runs.append((run, report))
        for pid in (service.process.pid, *self.workers, *(run.pid for run, _ in self._runs)):
            os.setpriority(os.PRIO_PROCESS, pid, 19)

    def reports(self) -> list[tuple[int, str]]:
        """Exit status and report of each share, once it is done."""
        return [(run.wait(), report.read_text()) for run, report in self._runs]

    def stop(self) -> None:
        """End what still runs."""
        for run, _ in self._runs:
            run.kill()
            run.wait()


@contextmanager
def fuzzing(folder: Path) -> Iterator[Fuzzing]:
    """A service that is being fuzzed, with what other tests leave of the processor."""
    with running(folder / "log", max_cost=1) as service:
        runs = Fuzzing(service, folder)
        try:
            yield runs
        finally:
            runs.stop()
