"""Which models exist: a folder of models -> cards. Facts only; the files themselves are opened in workers."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from dataclasses import dataclass
from pathlib import Path

from app.cards import ModelCard
from app.engine.pool import Pool
from app.engine.task import ExplainTask, ModelRef
from app.errors import ExplainError, ModelNotFound, ModelUnavailable

log = logging.getLogger("onnxplain.registry")

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_INSPECT_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Registered:
    """A model of the registry: which file it is, and its card, or the reason why it cannot be served."""

    ref: ModelRef
    card: ModelCard | None
    refusal: str = ""


class Registry:
    """The models by name. One place changes it, all others read."""

    def __init__(self, folder: Path, pool: Pool) -> None:
        self._folder = folder
        self._pool = pool
        self._models: dict[str, Registered] = {}
        # As many inspections at once as there are workers, so that a folder of hundreds never fills the queue.
        self._inspections = asyncio.Semaphore(pool.limits.workers)

    async def load(self) -> None:
        """Read every model of the folder; one that is refused is listed with its reason and stops nobody else."""
        found = await asyncio.to_thread(_scan, self._folder)
        registered = await asyncio.gather(*(self._inspect(ref) for ref in found))
        self._models = {model.ref.name: model for model in sorted(registered, key=lambda model: model.ref.name)}
        self._pool.keep_warm(model.ref for model in registered if model.card is not None)

    async def _inspect(self, ref: ModelRef) -> Registered:
        try:
            async with self._inspections:
                card = await self._pool.run(ExplainTask(ref, "inspect"), _INSPECT_TIMEOUT_S)
        except ExplainError as error:
            log.warning("model %s is refused: %s", ref.name, error)
            return Registered(ref, None, str(error))
        return Registered(ref, card)

    def all(self) -> list[Registered]:
        """Every model, by name."""
        return list(self._models.values())

    def get(self, name: str) -> Registered:
        """The model of that name, ready or not.

        Raises:
            ModelNotFound: there is none.
        """
        try:
            return self._models[name]
        except KeyError:
            known = ", ".join(list(self._models)[:20]) or "none"
            raise ModelNotFound(f"No model is registered under this name. Known models: {known}.") from None

    def ready(self, name: str) -> tuple[ModelRef, ModelCard]:
        """The file and the card of a model that can be explained.

        Raises:
            ModelNotFound: there is no model of that name.
            ModelUnavailable: the file was refused.
        """
        model = self.get(name)
        if model.card is None:
            raise ModelUnavailable(f"Model '{name}' is registered but cannot be served: {model.refusal}")
        return model.ref, model.card


def _scan(folder: Path) -> list[ModelRef]:
    refs = []
    for file in sorted(folder.glob("*/model.onnx")):
        name = file.parent.name
        if NAME.fullmatch(name):
            refs.append(ModelRef(name, str(file.parent), _digest(file)))
        else:
            log.warning("folder %s is passed over: a model's name matches %s", name, NAME.pattern)
    return refs


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
