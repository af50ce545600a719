"""Permuted predictions of any model: few large runs, no run that would only repeat what is known.

Repeats and features are stacked into runs of many rows. A feature of few distinct values is predicted once for each value;
a feature that the model never reads costs nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from queue import Empty, SimpleQueue

import numpy as np

from onnxplain.explainers.tables.permutation import Group, Job, Rows
from onnxplain.explainers.tables.table import Table
from onnxplain.explainers.tables.truth import Predicted

_COLUMNS = 32  # columns to keep at once


@dataclass(frozen=True)
class _Piece:
    """Rows `start` to `stop` of one repeat of one job, as they lie in a run."""

    job: int
    repeat: int
    start: int
    stop: int


@dataclass
class _Buffer:
    """Copies of the table, or of as many of its rows as a run takes, that one thread writes to.

    Attributes:
        rows: the copies, one below the other.
        start: the first row of the table that is there.
        changed: feature, first row of the table and first row of the buffer, and how many rows: what is not the table's own.
    """

    rows: Table
    start: int
    changed: set[tuple[int, int, int, int]]


@dataclass(frozen=True)
class _Values:
    """A feature of few values: repeat k's prediction of row i is that of slot `slots[k, i]`; the last is the baseline."""

    slots: Rows


class BlackBox:
    """An `Evaluator` that asks a predict function.

    Args:
        predict: table -> predictions; called from several threads at once where `threads` says so.
        table: the rows to explain.
        run_rows: about how many rows to predict in one call.
        task_rows: about how many rows a thread predicts before it reports.
        threads: how many calls may run at once.
        unread: features that the model never reads.
        check: called before every run; raises to stop.
    """

    def __init__(
        self,
        predict: Callable[[Table], Predicted],
        table: Table,
        *,
        run_rows: int = 8192,
        task_rows: int = 8192,
        threads: int = 1,
        unread: frozenset[int] = frozenset(),
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._predict = predict
        self._table = table
        self._run_rows = run_rows
        self._threads = threads
        self._unread = unread
        self._check = check
        self._copies = max(1, run_rows // table.n_rows)
        self._task_runs = max(1, task_rows // min(run_rows, self._copies * table.n_rows))
        self._buffers: SimpleQueue[_Buffer] = SimpleQueue()
        # Rows are gathered from the same few columns again and again: faster where their values lie side by side.
        self._column = lru_cache(_COLUMNS)(lambda feature: np.ascontiguousarray(table.column(feature)))
        self._baseline: Predicted | None = None
        self.rows_predicted = 0

    def baseline(self) -> Predicted:
        """Predictions for the table as it is."""
        if self._baseline is None:
            parts = []
            for start in range(0, self._table.n_rows, self._run_rows):
                self._check()
                parts.append(self._predict(self._table.slice(start, start + self._run_rows)))
            self.rows_predicted += self._table.n_rows
            classes = None if parts[0].classes is None else np.concatenate([part.classes for part in parts])
            self._baseline = Predicted(np.concatenate([part.values for part in parts]), classes)
        return self._baseline

    def permuted(self, jobs: Sequence[Job]) -> Iterator[Predicted]:
        """Predictions job by job: values[r, n, k], classes[r, n]."""
        base = self.baseline()
        plans = [self._plan(job) for job in jobs]
        smaller = [job for job, _ in plans]
        answers: dict[int, Predicted] = {}
        left = [len(job.sources) * self._table.n_rows for job in smaller]
        following = 0
        for run, predicted in self._runs(smaller):
            offset = 0
            for piece in run:
                size = piece.stop - piece.start
                if piece.job not in answers:
                    answers[piece.job] = _empty(base, len(smaller[piece.job].sources))
                _write(answers[piece.job], piece, predicted[offset : offset + size])
                left[piece.job] -= size
                offset += size
            while following < len(jobs) and left[following] == 0:
                yield _finish(base, answers.pop(following, None), plans[following][1])
                following += 1
        while following < len(jobs):
            yield _finish(base, answers.pop(following, None), plans[following][1])
            following += 1

    def distinct(self, features: Group) -> tuple[Rows, Rows]:
        """Rows of equal values; features that are never read count as equal."""
        return self._table.codes([feature for feature in features if feature not in self._unread])

    def _plan(self, job: Job) -> tuple[Job, _Values | None]:
        """The job with no more rows than needed, and how to read its answer."""
        n_repeats, n = job.sources.shape
        features = tuple(feature for feature in job.features if feature not in self._unread)
        few = self._table.slice(0, 2 * n_repeats + 50)
        if len(few.codes(features)[1]) > n_repeats:  # already the first rows have too many values
            return Job(features, job.sources), None
        codes, representatives = self._table.codes(features)
        n_values = len(representatives)
        if n_values - 1 >= n_repeats:
            return Job(features, job.sources), None
        # Slot s of a row holds the s-th value that is not its own.
        slots = np.arange(n_values - 1)[:, None]
        sources = representatives[slots + (slots >= codes)] if n_values > 1 else np.empty((0, n), dtype=np.intp)
        wanted = codes[job.sources]
        return Job(features, sources), _Values(np.where(wanted == codes, n_values - 1, wanted - (wanted > codes)))

    def _runs(self, jobs: Sequence[Job]) -> Iterator[tuple[list[_Piece], Predicted]]:
        """Runs and their predictions, in order; a few are under way at once."""
        if self._threads == 1:
            for run in self._pieces(jobs):
                yield run, self._run(jobs, run)
            return
        pieces = self._pieces(jobs)
        with ThreadPoolExecutor(self._threads) as executor:
            under_way: deque[tuple[list[list[_Piece]], Future[list[Predicted]]]] = deque()
            try:
                while runs := list(islice(pieces, self._task_runs)):
                    under_way.append((runs, executor.submit(self._task, jobs, runs)))
                    if len(under_way) > self._threads:
                        done, future = under_way.popleft()
                        yield from zip(done, future.result(), strict=True)
                while under_way:
                    done, future = under_way.popleft()
                    yield from zip(done, future.result(), strict=True)
            finally:
                for _, future in under_way:
                    future.cancel()

    def _task(self, jobs: Sequence[Job], runs: list[list[_Piece]]) -> list[Predicted]:
        """Several runs in one go: threads that wake each other after each would wait for one another."""
        return [self._run(jobs, run) for run in runs]

    def _pieces(self, jobs: Sequence[Job]) -> Iterator[list[_Piece]]:
        n = self._table.n_rows
        run: list[_Piece] = []
        for number, job in enumerate(jobs):
            for start in range(0, n, self._run_rows):
                for repeat in range(len(job.sources)):
                    run.append(_Piece(number, repeat, start, min(n, start + self._run_rows)))
                    if len(run) == self._copies:
                        yield run
                        run = []
        if run:
            yield run

    def _run(self, jobs: Sequence[Job], run: list[_Piece]) -> Predicted:
        """Write the permuted columns over a copy of the table, and predict."""
        self._check()
        n, start = self._table.n_rows, run[0].start
        buffer = self._buffer()
        try:
            if buffer.start != start:
                for copied, block in zip(buffer.rows.blocks, self._rows_from(start).blocks, strict=True):
                    copied[: len(block)] = block
                buffer.start, buffer.changed = start, set()
            changed = {
                (feature, piece.start, copy * n + piece.start - start, piece.stop - piece.start)
                for copy, piece in enumerate(run)
                for feature in jobs[piece.job].features
            }
            # The next repeat of a feature writes over this one, so columns are put back only when their turn is over.
            for feature, own, place, size in buffer.changed - changed:
                buffer.rows.column(feature)[place : place + size] = self._column(feature)[own : own + size]
            buffer.changed = changed
            for copy, piece in enumerate(run):
                source = jobs[piece.job].sources[piece.repeat, piece.start : piece.stop]
                for feature in jobs[piece.job].features:
                    place = copy * n + piece.start - start
                    buffer.rows.column(feature)[place : place + len(source)] = self._column(feature).take(source)
            rows = buffer.rows.slice(0, (len(run) - 1) * n + run[-1].stop - start)
            self.rows_predicted += rows.n_rows
            return self._predict(rows)
        finally:
            self._buffers.put(buffer)

    def _buffer(self) -> _Buffer:
        """One that no other thread writes to."""
        try:
            return self._buffers.get_nowait()
        except Empty:
            return _Buffer(self._rows_from(0).tile(self._copies), 0, set())

    def _rows_from(self, start: int) -> Table:
        """The rows of the run that begins here."""
        return self._table.slice(start, start + self._run_rows)


def _empty(base: Predicted, n_repeats: int) -> Predicted:
    values = np.empty((n_repeats, *base.values.shape), dtype=base.values.dtype)
    return Predicted(values, None if base.classes is None else np.empty((n_repeats, len(base.classes)), dtype=np.intp))


def _write(answer: Predicted, piece: _Piece, predicted: Predicted) -> None:
    answer.values[piece.repeat, piece.start : piece.stop] = predicted.values
    if answer.classes is not None and predicted.classes is not None:
        answer.classes[piece.repeat, piece.start : piece.stop] = predicted.classes


def _finish(base: Predicted, answer: Predicted | None, values: _Values | None) -> Predicted:
    """The answer to the job as it was asked."""
    if answer is None:
        answer = _empty(base, 0)
    if values is None:
        return answer
    rows = np.arange(len(base.values))
    every = np.concatenate([answer.values, base.values[None]])[values.slots, rows]
    if base.classes is None or answer.classes is None:
        return Predicted(every)
    return Predicted(every, np.concatenate([answer.classes, base.classes[None]])[values.slots, rows])
