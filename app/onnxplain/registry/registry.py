"""Which models exist: a folder of models and a store of uploads -> cards. Files themselves are opened in workers."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from onnxplain.facts.cards import ModelCard
from onnxplain.facts.errors import ExplainError, ModelConflict, ModelNotFound, ModelRefused, ModelUnavailable
from onnxplain.facts.tasks import InspectTask, ModelRef
from onnxplain.registry.store import MODEL, Pointer, Store, digest_of
from onnxplain.workers.pool import Pool

log = logging.getLogger("onnxplain.registry")

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_INSPECT_TIMEOUT_S = 120.0

Signature = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Registered:
    """A model of the registry: which file it is, and its card, or the reason why it cannot be served."""

    ref: ModelRef
    card: ModelCard | None
    refusal: str = ""


class Registry:
    """The models by name. One place changes it, all others read.

    A change is prepared beside what is served (written, probed in a process of its own, warmed up) and then swapped in
    with one assignment. Until that moment the old version answers; if the new one fails, it goes on answering.
    """

    def __init__(
        self,
        folder: Path,
        pool: Pool,
        store: Store | None = None,
        probe_s: float = 10.0,
        keep_s: float = 60.0,  # a request that has just looked up a version may still be sending its body
    ) -> None:
        self._folder = folder
        self._pool = pool
        self._store = store or Store(folder / ".store")
        self._probe_s = probe_s
        self._keep_s = keep_s
        self._models: dict[str, Registered] = {}
        self._changing: set[str] = set()
        self._retired: list[tuple[ModelRef, float]] = []
        self._uploads: dict[str, Pointer] = {}
        self._versions: dict[str, int] = {}
        # As many inspections at once as there are workers, so that a folder of hundreds never fills the queue.
        self._inspections = asyncio.Semaphore(pool.limits.workers)
        self._probes = asyncio.Semaphore(1)

    # ---- reading --------------------------------------------------------------------------------------------------

    def all(self) -> list[Registered]:
        """Every model, by name."""
        return list(self._models.values())

    def knows(self, name: str) -> bool:
        """Whether there is a model of that name, ready or not."""
        return name in self._models

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

    # ---- loading --------------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Read every model of folder and store; one that is refused is listed with its reason and stops nobody else."""
        refs = await asyncio.to_thread(self._find)
        registered = await asyncio.gather(*(self._inspect(ref) for ref in refs.values()))
        self._publish({model.ref.name: model for model in registered})

    def _find(self) -> dict[str, ModelRef]:
        """Every model there is; what the store says of a name counts more than the folder."""
        if self._store.folder.is_dir():
            self._store.sweep()
        self._uploads = self._store.pointers()
        refs = {name: _reference(path) for name, path in _scan(self._folder).items()}
        for name, pointer in self._uploads.items():
            self._versions[name] = pointer.version
            ref = self._store.ref(name, pointer)
            if ref is not None:
                refs[name] = ref
            elif not pointer.digest:
                refs.pop(name, None)
        return refs

    async def _inspect(self, ref: ModelRef) -> Registered:
        try:
            async with self._inspections:
                card = await self._pool.run(InspectTask(ref), _INSPECT_TIMEOUT_S)
        except ExplainError as error:
            log.warning("model %s is refused: %s", ref.name, error)
            return Registered(ref, None, str(error))
        return Registered(ref, card)

    def _publish(self, models: dict[str, Registered]) -> None:
        """Swap in a new table: from here on requests get it; those under way keep the reference they have."""
        before, self._models = self._models, dict(sorted(models.items()))
        self._pool.keep_warm(model.ref for model in self._models.values() if model.card is not None)
        kept = {model.ref for model in self._models.values()}
        now = time.monotonic()
        self._retired += [(model.ref, now) for model in before.values() if model.ref not in kept]
        if self._retired:
            asyncio.get_running_loop().call_later(self._keep_s + 1, self._clear_retired)
        self._clear_retired()

    def _clear_retired(self) -> None:
        """Delete versions that nobody can be using any more; the same files may have been registered again since."""
        now = time.monotonic()
        kept = [
            (ref, since)
            for ref, since in self._retired
            if now - since < self._keep_s or self._pool.uses(ref) or ref.name in self._changing
        ]
        needed = {ref.path for ref, _ in kept} | {model.ref.path for model in self._models.values()}
        for path in {ref.path for ref, _ in self._retired} - needed:
            self._store.discard(path)
        self._retired = kept

    # ---- changing -------------------------------------------------------------------------------------------------

    async def put(self, name: str, model: BinaryIO, manifest: bytes) -> tuple[Registered, bool]:
        """Register or replace a model; whether it was new comes along.

        Raises:
            ModelConflict: another change of this name is under way.
            ModelRefused: the file cannot be served, or not loaded within the limits. What was served still is.
        """
        with self._change(name):
            new = name not in self._models
            registered = await self._replace(name, lambda: self._store.receive(model, manifest), upload=True)
            return registered, new

    async def remove(self, name: str) -> None:
        """Take a model out of service. A folder of the operator's is left alone, but not served any more.

        Raises:
            ModelConflict: another change of this name is under way.
            ModelNotFound: there is none.
        """
        with self._change(name):
            self.get(name)
            await asyncio.shield(self._commit(name, None, Pointer("", self._versions.get(name, 1))))

    @contextmanager
    def _change(self, name: str) -> Iterator[None]:
        """Hold a name while it is changed.

        Raises:
            ModelConflict: somebody holds it.
        """
        if name in self._changing:
            raise ModelConflict(f"Model '{name}' is being changed right now. Wait for that to end, then try again.")
        self._changing.add(name)
        try:
            yield
        finally:
            self._changing.discard(name)
            self._clear_retired()

    async def _replace(self, name: str, stage: Callable[[], Path], *, upload: bool) -> Registered:
        staged = await asyncio.to_thread(stage)
        version = self._versions.get(name, 1 if name in self._models else 0) + 1
        ref = await asyncio.to_thread(self._store.place, staged, name, version)
        current = self._models.get(name)
        if current is not None and current.card is not None and current.ref.path == ref.path:
            return current  # the very same files: nothing to do
        try:
            registered = Registered(ref, await self._try(ref))
        except BaseException:
            self._retired.append((ref, 0.0))
            raise
        # From here on there is no way back, even when the client leaves in this moment.
        await asyncio.shield(self._commit(name, registered, Pointer(ref.fingerprint, version) if upload else None))
        return registered

    async def _commit(self, name: str, model: Registered | None, pointer: Pointer | None) -> None:
        """Write the pointer of an upload or removal, then swap in the new table."""
        if pointer is not None:
            await asyncio.to_thread(self._store.point, name, pointer)
            self._uploads[name] = pointer
        if model is not None:
            self._versions[name] = int(model.ref.version)
        others = {other: known for other, known in self._models.items() if other != name}
        self._publish(others if model is None else others | {name: model})

    async def _try(self, ref: ModelRef) -> ModelCard:
        """Load a new file where it can do no harm, then where it will be served.

        Raises:
            ModelRefused: with the reason.
        """
        try:
            async with self._probes:
                await self._pool.probe(ref, self._probe_s, self._pool.limits.worker)
            card: ModelCard = await self._pool.run(InspectTask(ref), _INSPECT_TIMEOUT_S)
        except ModelRefused:
            raise
        except ExplainError as error:
            raise ModelRefused(f"The model could not be loaded within the limits of this service. {error}") from None
        return card

    # ---- watching -------------------------------------------------------------------------------------------------

    async def watch(self, every_s: float) -> None:
        """Look at the folder again and again; a model that changed is taken up like an upload, one that went is dropped.

        A change counts once it has stood still for one look: before, somebody may still be writing. What is served is
        a copy in the store, so that requests under way keep the version they began with. Names that were uploaded or
        removed over HTTP are left as they are.
        """
        served = await asyncio.to_thread(_signatures, self._folder)
        before = served
        while True:
            await asyncio.sleep(every_s)
            now = await asyncio.to_thread(_signatures, self._folder)
            for name in (served.keys() | now.keys()) - self._uploads.keys():
                if now.get(name) != served.get(name) and now.get(name) == before.get(name):
                    await self._follow(name, gone=name not in now)
                    served = {other: files for other, files in served.items() if other != name}
                    served |= {name: now[name]} if name in now else {}
            before = now

    async def _follow(self, name: str, *, gone: bool) -> None:
        try:
            with self._change(name):
                if gone:
                    await self._commit(name, None, None)
                else:
                    await self._replace(name, lambda: self._store.snapshot(self._folder / name), upload=False)
        except (ExplainError, OSError) as error:
            log.warning("the folder of model %s changed, but what was served still is: %s", name, error)
        else:
            log.info("model %s is %s", name, "gone" if gone else f"now version {self._versions[name]}")


def _scan(folder: Path) -> dict[str, Path]:
    """The folders with a model, by name."""
    found = {}
    for file in sorted(folder.glob(f"*/{MODEL}")):
        name = file.parent.name
        if not file.is_file():
            log.warning("folder %s is passed over: its %s is no plain file; put the model's file there", name, MODEL)
        elif NAME.fullmatch(name):
            found[name] = file.parent
        else:
            log.warning("folder %s is passed over: a model's name matches %s", name, NAME.pattern)
    return found


def _reference(path: Path) -> ModelRef:
    """A folder as it is now: the exact model, and a fingerprint that any changed file changes."""
    sha256 = digest_of(path / MODEL)
    fingerprint = hashlib.sha256(repr((sha256, _signature(path))).encode()).hexdigest()
    return ModelRef(path.name, str(path), sha256, "1", fingerprint)


def _signatures(folder: Path) -> dict[str, Signature]:
    return {name: _signature(path) for name, path in _scan(folder).items()}


def _signature(path: Path) -> Signature:
    """Name, size and time of change of every file."""
    entries = []
    for file in sorted(path.rglob("*")):
        try:
            status = file.stat()
        except OSError:
            continue  # it went while we looked
        if file.is_file():
            entries.append((str(file.relative_to(path)), status.st_size, status.st_mtime_ns))
    return tuple(entries)
