"""Every setting of the service, each an environment variable `ONNXPLAIN_*`, frozen and read once."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from onnxplain.facts.tasks import TaskLimits

MEBIBYTE = 2**20
PREFIX = "ONNXPLAIN_"


class Settings(BaseModel):
    """The settings. What a test or the command line passes wins over the environment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # ---- where ----------------------------------------------------------------------------------------------------
    host: Annotated[str, Field(description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="Port to listen on; 0 takes a free one.")] = 8000
    models: Annotated[Path, Field(description="Folder with one sub-folder a model.")] = Path("models")
    watch: Annotated[
        float, Field(ge=0, le=3600, description="Seconds between looks at the models' folder for changes; 0 for none.")
    ] = 0.0

    # ---- how much at once -----------------------------------------------------------------------------------------
    workers: Annotated[int, Field(ge=1, le=256, description="Worker processes, one explanation at a time each.")] = max(
        1, os.cpu_count() or 1
    )
    threads: Annotated[int, Field(ge=1, le=256, description="Threads of ONNX Runtime within one worker.")] = 1
    worker_memory: Annotated[
        int,
        Field(
            ge=0,
            description="Address space of one worker, in MiB, three quarters of it for runs of models; 0 for no limit.",
        ),
    ] = 8192
    queue: Annotated[
        int | None,
        Field(ge=0, le=100_000, description="Requests that may wait for a worker. Default: 6, and 2 for each worker."),
    ] = None
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
    # ---- how large ------------------------------------------------------------------------------------------------
    max_body: Annotated[int, Field(ge=1, description="Most MiB of a request body.")] = 128
    max_bodies: Annotated[int, Field(ge=1, description="Most MiB of all request bodies together.")] = 1024
    max_pixels: Annotated[int, Field(ge=1, description="Most pixels of a picture.")] = TaskLimits.max_pixels
    max_cells: Annotated[int, Field(ge=1, description="Most cells (rows times columns) of a table.")] = (
        TaskLimits.max_cells
    )
    max_cost: Annotated[
        float, Field(gt=0, description="Most seconds of the model's own measured time that one request may cost.")
    ] = 600.0

    max_model: Annotated[int, Field(ge=1, le=2048, description="Most MiB of an uploaded model.")] = 512
    probe_timeout: Annotated[
        float, Field(gt=0, le=600, description="Seconds that loading a new model may take before it is refused.")
    ] = 10.0
    cache: Annotated[
        int, Field(ge=0, description="MiB of answers kept for when the same is asked again; 0 for none.")
    ] = 64

    # ---- who ------------------------------------------------------------------------------------------------------
    api_keys: Annotated[
        SecretStr,
        Field(description="Keys that callers send, separated by commas, each as it is or as `sha256:` and its digest."),
    ] = SecretStr("")
    admin_key: Annotated[SecretStr, Field(description="The key that may change models, given like an API key.")] = (
        SecretStr("")
    )
    anonymous: Annotated[bool, Field(description="Listen off loopback although no API key is set.")] = False
    allowed_hosts: Annotated[
        str,
        Field(
            description="Names in `Host` that are answered, separated by commas, `*` for all. Default: all, but on loopback "
            "without keys only this machine's own names, so that no web page can reach the service by DNS rebinding."
        ),
    ] = ""
    uploads: Annotated[bool, Field(description="Let the admin key register, replace and remove models.")] = False
    store: Annotated[
        Path | None, Field(description="Folder for uploaded models. Default: `.store` in the models' folder.")
    ] = None

    # ---- slow clients ---------------------------------------------------------------------------------------------
    header_timeout: Annotated[float, Field(gt=0, le=3600, description="Seconds for all headers to arrive.")] = 10.0
    body_timeout: Annotated[float, Field(gt=0, le=3600, description="Seconds for the body to arrive after them.")] = (
        60.0
    )
    keep_alive: Annotated[float, Field(ge=1, le=3600, description="Seconds an idle connection is kept.")] = 15.0
    connections: Annotated[int, Field(ge=1, le=100_000, description="Connections open at once.")] = 1000

    # ---- logs -----------------------------------------------------------------------------------------------------
    log_format: Annotated[
        Literal["auto", "json", "text"], Field(description="`auto`: text on a terminal, JSON lines elsewhere.")
    ] = "auto"
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Field(description="Least level logged.")] = (
        "info"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_environment(cls, given: dict[str, Any]) -> dict[str, Any]:
        """What is not given stands in the environment. Flat names need no library: pydantic parses the texts."""
        variables = {name: PREFIX + name.upper() for name in cls.model_fields}
        return {name: os.environ[key] for name, key in variables.items() if key in os.environ} | given

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        """What two settings say together must make sense, and a key must be one."""
        _ = self.key_digests  # a key that is none is found out now
        if self.uploads and not self.admin_digest:
            raise ValueError("ONNXPLAIN_UPLOADS needs ONNXPLAIN_ADMIN_KEY: uploads change what every caller gets")
        if self.timeout > self.max_timeout:
            raise ValueError("ONNXPLAIN_TIMEOUT must not be above ONNXPLAIN_MAX_TIMEOUT")
        return self

    @property
    def waiting(self) -> int:
        """Requests that may wait for a worker.

        By default so many that the slowest answer under any overload takes at most twice as long as the slowest one at
        80 % load: the more workers share a queue, the shorter it is at that load, and the fewer may wait for each.
        """
        return 6 + 2 * self.workers if self.queue is None else self.queue

    @property
    def key_digests(self) -> tuple[bytes, ...]:
        """SHA-256 of every API key."""
        return tuple(_digest(key) for key in _split(self.api_keys.get_secret_value()))

    @property
    def admin_digest(self) -> bytes | None:
        """SHA-256 of the admin key, if there is one."""
        keys = _split(self.admin_key.get_secret_value())
        return _digest(keys[0]) if keys else None

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def hosts(self) -> frozenset[str]:
        """Names in `Host` that are answered; empty when every name is."""
        names = _split(self.allowed_hosts.lower())
        if "*" in names:
            return frozenset()
        if names:
            return frozenset(names)
        if self.on_loopback and not self.key_digests:
            return frozenset({"localhost", "127.0.0.1", "::1", self.host.strip("[]").lower()})
        return frozenset()

    @property
    def store_folder(self) -> Path:
        """Where uploaded models lie."""
        return self.store or self.models / ".store"

    @property
    def json_logs(self) -> bool:
        """Whether log lines are JSON."""
        return self.log_format == "json" or (self.log_format == "auto" and not sys.stderr.isatty())

    def limits(self) -> TaskLimits:
        """The limits that a worker applies to one request."""
        return TaskLimits(self.max_pixels, self.max_cells, self.max_cost * 1e3)


def _split(text: str) -> list[str]:
    return [part for part in (part.strip() for part in text.split(",")) if part]


def _digest(key: str) -> bytes:
    """A key as its digest. One that is shorter than 16 characters can be guessed, and is refused."""
    if key.startswith("sha256:"):
        if not re.fullmatch(r"sha256:[0-9a-fA-F]{64}", key):
            raise ValueError("a key given as sha256: needs the 64 hexadecimal digits of its digest")
        return bytes.fromhex(key.removeprefix("sha256:"))
    if len(key) < 16:
        raise ValueError("a key must have at least 16 characters; `openssl rand -hex 24` makes one")
    return hashlib.sha256(key.encode()).digest()
