"""Every setting of the service, each an environment variable `ONNXPLAIN_*`, frozen and read once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

MEBIBYTE = 2**20


class Settings(BaseSettings):
    """The settings. What a test or the command line passes wins over the environment."""

    model_config = SettingsConfigDict(env_prefix="ONNXPLAIN_", frozen=True, extra="forbid")

    host: Annotated[str, Field(description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="Port to listen on; 0 takes a free one.")] = 8000
    models: Annotated[Path, Field(description="Folder with one sub-folder a model.")] = Path("models")
    workers: Annotated[int, Field(ge=1, le=256, description="Worker processes, one explanation at a time each.")] = max(
        1, os.cpu_count() or 1
    )
    threads: Annotated[int, Field(ge=1, le=256, description="Threads of ONNX Runtime within one worker.")] = 1
    worker_memory: Annotated[int, Field(ge=0, description="Address space of one worker, in MiB; 0 for no limit.")] = 0
    queue: Annotated[int, Field(ge=0, le=100_000, description="Requests that may wait for a worker.")] = 16
    timeout: Annotated[float, Field(gt=0, le=86_400, description="Seconds one request may take.")] = 60.0
    max_timeout: Annotated[
        float, Field(gt=0, le=86_400, description="Most seconds that X-Request-Timeout may ask for.")
    ] = 600.0
    grace: Annotated[
        float,
        Field(gt=0, le=60, description="Seconds a cancelled explanation may take to stop before its worker is killed."),
    ] = 1.0
    drain: Annotated[
        float,
        Field(ge=0, le=3600, description="Seconds that running requests may take to finish when the service stops."),
    ] = 20.0
    max_body: Annotated[int, Field(ge=1, description="Most MiB of a request body.")] = 128
    max_pixels: Annotated[int, Field(ge=1, description="Most pixels of a picture.")] = 25_000_000
    max_cells: Annotated[int, Field(ge=1, description="Most cells (rows times columns) of a table.")] = 20_000_000
    max_cost: Annotated[
        float, Field(gt=0, description="Most seconds of the model's own measured time that one request may cost.")
    ] = 600.0

    def limits(self) -> dict[str, float]:
        """The limits that a worker applies, in the units of `ExplainTask.limits`."""
        return {
            "max_pixels": self.max_pixels,
            "max_cells": self.max_cells,
            "max_cost_ms": self.max_cost * 1e3,
        }
