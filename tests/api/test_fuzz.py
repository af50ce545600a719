"""Requests made from the OpenAPI document by schemathesis, right and wrong ones: no answer of 500, none undocumented."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conftest import running

# One operation of each kind of handler; the other methods differ in their options model alone. `make soak` takes all.
OPERATIONS = (
    "list_models",
    "get_model",
    "get_sample",
    "limits",
    "health_ready",
    "predict",
    "explain_gradcam",
    "explain_integrated_gradients",
    "explain_permutation_importance",
)
# Bytes cannot be described by a schema: random ones are no picture, and are rightly refused.
EXCLUDED = "positive_data_acceptance"


def fuzz(url: str, examples: int, phases: str, operations: tuple[str, ...] = (), seed: int | None = None) -> str:
    """Run schemathesis; its report, which must find nothing."""
    chosen = [argument for name in operations for argument in ("--include-operation-id", name)]
    command = [
        Path(sys.executable).parent / "schemathesis", "run", f"{url}/openapi.json", *chosen,
        "--phases", phases, "--max-examples", str(examples), "--checks", "all", "--exclude-checks", EXCLUDED,
        "--max-response-time", "60", "--suppress-health-check", "all", "--no-color", "--generation-database", "none",
        *([] if seed is None else ["--seed", str(seed)]),
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:  # schemathesis writes its notes where it runs
        run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert run.returncode == 0, run.stdout[-6000:]
    return run.stdout


def test_no_request_made_from_the_schema_is_answered_wrongly(tmp_path: Path) -> None:
    with running(tmp_path / "log", max_cost=1) as service:
        workers = service.workers()
        report = fuzz(service.url, 8, "coverage,fuzzing", OPERATIONS, seed=1)
        assert service.workers() == workers
    cases = re.search(r"(\d+) generated", report)
    assert cases
    assert int(cases[1]) > 1000
