"""What many tests need: a running service, which is the real server with real workers on a free port."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import settings

# The ordinary run tries the same examples every time, so that what fails was broken by a change; `make soak` tries others.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

ROOT = Path(__file__).parents[1]
DEMO_MODELS = ROOT / "models"


@dataclass
class Service:
    """A running service: where it listens, its process, its log, and a client."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    client: httpx.Client

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def workers(self) -> list[int]:
        """Process IDs of the workers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in children if b"onnxplain.workers.worker" in _command_line(pid)]

    def lines(self, message: str = "") -> list[dict[str, Any]]:
        """Log lines, as objects, whose message contains a text."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if message in line["message"]]


def _command_line(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""


@contextmanager
def running(log: Path, models: Path = DEMO_MODELS, **settings: Any) -> Iterator[Service]:
    """The service as a process of its own; it must end by itself, with exit code 0, when asked to."""
    settings = {"workers": 2, "port": 0, "log_format": "json", "models": models} | settings
    environment = {name: text for name, text in os.environ.items() if not name.startswith("ONNXPLAIN_")}
    environment |= {f"ONNXPLAIN_{name.upper()}": str(setting) for name, setting in settings.items()}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [Path(sys.executable).parent / "onnxplain", "serve"],
            env=environment,
            stdout=stream,
            stderr=stream,
            cwd=ROOT,
        )
        try:
            url = _wait_for_url(log, process)
            with httpx.Client(base_url=url, timeout=60) as client:
                yield Service(url, process, log, client)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, log.read_text()[-2000:]
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def _wait_for_url(log: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if match := re.search(r"ready on (http://[^\" ]+)", log.read_text()):
            return match[1]
        time.sleep(0.02)
    raise AssertionError(f"the service did not start:\n{log.read_text()[-3000:]}")


def eventually(condition: Callable[[], object], within_s: float = 5.0) -> float:
    """Wait until a condition holds; the seconds it took. Fails when it does not hold within the time."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < within_s, f"not within {within_s} s: {condition}"
        time.sleep(0.01)
    return time.monotonic() - started


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What goes on in the background is asked for last."""
    items.sort(key=lambda item: item.get_closest_marker("beside") is not None)


@pytest.fixture(scope="session", autouse=True)
def fuzzed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A service that is fuzzed beside the other tests, if that is among what is to be tested."""
    if not any(item.get_closest_marker("beside") for item in request.session.items):
        yield None
        return
    from tests.fuzzing import fuzzing

    with fuzzing(tmp_path_factory.mktemp("fuzzed")) as runs:
        yield runs


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service with the demo models and its default limits."""
    with running(tmp_path_factory.mktemp("service") / "log") as running_service:
        yield running_service
