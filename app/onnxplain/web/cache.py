"""Answers kept for when the same is asked again: bounded in bytes, the one not used for longest makes room."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import OrderedDict
from dataclasses import asdict, dataclass, field, replace

from onnxplain.facts.tasks import ExplainTask, PredictTask, Task, work_of

_IN_LOOP_BYTES = 2**18  # hashing more than this would hold up other requests: a thread does it
_HOPELESS = 100  # after this many misses in a row the cache counts as useless for what is asked
_OVERHEAD_BYTES = 1024  # what an entry costs beside its body


@dataclass(frozen=True)
class Answer:
    """An answer as it went over the wire."""

    body: bytes
    media_type: str
    headers: tuple[tuple[str, str], ...] = ()
    made: float = field(default_factory=time.monotonic)


class ResultCache:
    """Answers by the digest of everything they depend on. Not thread-safe: one event loop uses it."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._answers: OrderedDict[str, Answer] = OrderedDict()
        self.bytes = 0
        self.hits = 0
        self.misses = 0
        self._misses_in_a_row = _HOPELESS

    @property
    def helps(self) -> bool:
        """Whether anybody has asked the same thing again lately."""
        return self._misses_in_a_row < _HOPELESS

    def get(self, key: str) -> Answer | None:
        """The answer kept under `key`, if any."""
        answer = self._answers.get(key)
        if answer is None:
            self.misses += 1
            self._misses_in_a_row += 1
            return None
        self.hits += 1
        self._misses_in_a_row = 0
        self._answers.move_to_end(key)
        return answer

    def put(self, key: str, answer: Answer) -> None:
        """Keep an answer. One that would take more than an eighth of the room is not kept: it would drive out the rest."""
        size = len(answer.body) + _OVERHEAD_BYTES
        if size > self._limit / 8:
            return
        if key in self._answers:
            self.bytes -= len(self._answers.pop(key).body) + _OVERHEAD_BYTES
        self._answers[key] = answer
        self.bytes += size
        while self.bytes > self._limit:
            _, oldest = self._answers.popitem(last=False)
            self.bytes -= len(oldest.body) + _OVERHEAD_BYTES


async def key_of(task: Task, media_type: str) -> str:
    """SHA-256 over all that decides an answer: the model's exact files, the work and its options, the input, the form."""
    body, head = b"", task
    if isinstance(task, ExplainTask | PredictTask):
        body, head = task.body, replace(task, body=b"")
    facts = [work_of(task), media_type, asdict(head)]
    digest = hashlib.sha256(json.dumps(facts, default=str, sort_keys=True).encode())
    if len(body) <= _IN_LOOP_BYTES:
        digest.update(body)
    else:
        await asyncio.to_thread(digest.update, body)
    return digest.hexdigest()
