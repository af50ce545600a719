"""A model that takes a table: rows in, probabilities or numbers out, as ONNX Runtime computes them, row by row the same."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxplain.explainers.evaluators.blackbox import BlackBox
from onnxplain.explainers.evaluators.linear import LinearEvaluator
from onnxplain.explainers.evaluators.trees import TreeEvaluator
from onnxplain.explainers.tables.permutation import Evaluator, Group, Rows
from onnxplain.explainers.tables.table import Table
from onnxplain.explainers.tables.truth import Predicted
from onnxplain.facts.cards import Feature, ModelCard, TabularSpec
from onnxplain.facts.errors import InputRefusedByModel, InputTooLarge, ModelRefused
from onnxplain.model.graphs.graph import Graph
from onnxplain.model.manifest import Identity, Manifest
from onnxplain.model.meaning.preparation import tensor_facts
from onnxplain.model.runtime.noise import Noise
from onnxplain.model.runtime.sessions import Cancellation, Session
from onnxplain.model.tables.cut_at_linear import LinearModel, cut_at_linear, pays
from onnxplain.model.tables.cut_at_trees import TreeModel, cut_at_trees
from onnxplain.model.tables.front import columns_read
from onnxplain.model.tables.inputs import TableInput, known_categories, table_inputs
from onnxplain.model.tables.outputs import Answer, class_indices, read_answer

RUN_SECONDS = 0.04  # a run cannot be stopped inside one operator, so no run may take longer
RUN_ROWS = 8192  # more would leave the processor's cache between two operators
_TRIAL_ROWS = 256
_NEAR = 1e-3  # how far rounding may take a probability out of its range, or their sum from 1


class TabularModel:
    """A loaded table model.

    Attributes:
        card: facts for everybody.
        layout: columns of each input.
        classes: labels in the order of the scores; empty for a regression.
        has_probabilities: False where the graph answers with labels alone, or with scores that are no probabilities: decision values,
            distances, margins, votes.
        categories: texts that the graph knows; None where that cannot be told.
    """

    def __init__(
        self,
        model: ModelProto,
        session: Session,
        card: ModelCard,
        inputs: tuple[TableInput, ...],
        answer: Answer,
        folder: Path | None,
        cancellation: Cancellation,
        threads: int,
        *,
        probable: bool = True,
    ) -> None:
        self.card = card
        self.layout: tuple[tuple[Feature, ...], ...] = tuple(table_input.features for table_input in inputs)
        self.classes = answer.classes
        self.has_probabilities = answer.link != "one-hot" and probable
        self.categories = known_categories(model)
        self.check: Callable[[], None] = cancellation.check
        self._inputs = inputs
        self._answer = answer
        self._folder = folder
        self._model: ModelProto | None = model
        self._cancellation = cancellation
        self._threads = threads
        self._session = session
        self._outputs = [*answer.scores, *([answer.label] if answer.label else [])]
        self._fixed_rows = next((i.rows for i in inputs if i.rows is not None), None)
        self._unconnected = _unread(model, inputs)

    @cached_property
    def label_index(self) -> dict[str, int]:
        """Class index of a label as callers may write it: as `classes` has it, or as the graph's own output does."""
        return {name: i for names in (self._answer.graph_classes, self.classes) for i, name in enumerate(names)}

    @property
    def features(self) -> list[str]:
        """Names of the columns in order."""
        return [feature.name for block in self.layout for feature in block]

    def predict(self, table: Table) -> Predicted:
        """Predictions for all rows: probabilities [n, k] or regression values [n, k], and predicted classes.

        Raises:
            Cancelled: stopped from another thread.
            InputRefusedByModel: the runtime failed on these values.
        """
        if self._fixed_rows is None:
            return self._run(table)
        parts = [self._run_fixed(table, start) for start in range(0, table.n_rows, self._fixed_rows)]
        values = np.concatenate([part.values for part in parts])
        if parts[0].classes is None:
            return Predicted(values)
        return Predicted(values, np.concatenate([part.classes for part in parts]))

    def _run_fixed(self, table: Table, start: int) -> Predicted:
        """One run of a model that wants a fixed number of rows; the last row is repeated where some are lacking."""
        assert self._fixed_rows is not None
        rows = np.minimum(np.arange(start, start + self._fixed_rows), table.n_rows - 1)
        return self._run(table.take(rows))[: table.n_rows - start]

    def _run(self, table: Table) -> Predicted:
        return self._predicted(self._session.run(self._feeds(table), self._outputs), table.n_rows)

    def _feeds(self, table: Table) -> dict[str, NDArray[Any]]:
        return {i.name: block[:, 0] if i.flat else block for i, block in zip(self._inputs, table.blocks, strict=True)}

    def _predicted(self, results: list[NDArray[Any]], n: int) -> Predicted:
        """What the graph's outputs say of n rows."""
        label = results[-1] if self._answer.label else None
        classes = None if label is None else class_indices(label, self._answer.graph_classes)
        return self._read(results[: len(self._answer.scores)], classes, n)

    def _read(self, scores: list[NDArray[Any]], classes: NDArray[np.intp] | None, n: int) -> Predicted:
        link = self._answer.link
        if link == "one-hot":
            assert classes is not None
            return Predicted((classes[:, None] == np.arange(len(self.classes))).astype(np.float32), classes)
        values = np.concatenate([part.reshape(n, -1) for part in scores], axis=1)
        if link == "values":
            return Predicted(values)
        if link == "positive" and values.shape[1] == 1:
            values = np.concatenate([1 - values if self.has_probabilities else -values, values], axis=1)
        if values.shape[1] != len(self.classes):
            raise ModelRefused(
                f"The model gives {values.shape[1]} scores for {len(self.classes)} classes; correct `classes` in model.toml."
            )
        return Predicted(values, np.argmax(values, axis=1) if classes is None else classes)

    def evaluator(self, table: Table, n_groups: int | None = None, *, to_the_bit: bool = True) -> Evaluator:
        """What predicts permuted copies of this table, in the fastest way that gives the same numbers.

        Args:
            table: the unpermuted rows.
            n_groups: how many copies there will be for each repeat; default: one for each column.
            to_the_bit: whether probabilities and values must be the runtime's to the last bit, or within 1e-6; classes are
                always the same.
        """
        black_box = self.black_box(table, self.unread)
        fast = self._fast(table, n_groups or len(self.features), black_box, to_the_bit=to_the_bit)
        if fast is None:
            return black_box
        black_box.baseline()  # what the runtime refuses of the rows themselves is the caller's to hear
        try:
            return fast if fast.agrees() else black_box
        except InputRefusedByModel:
            return black_box

    def _fast(
        self, table: Table, n_groups: int, black_box: BlackBox, *, to_the_bit: bool
    ) -> TreeEvaluator | LinearEvaluator | None:
        """A shorter way than predicting every row, where the graph has one and it pays."""
        cut, row_ms = self._cut, self.card.forward_ms
        if cut is None:
            return None
        if isinstance(cut, LinearModel):
            worth_it = not to_the_bit and pays(table.n_rows * n_groups, row_ms, self._threads)
        else:
            worth_it = cut.is_faster(n_groups, row_ms)
        reads = columns_read(cut.front, table, self._feeds, self._offsets) if worth_it else None
        if reads is None:
            return None

        def finish(sums: NDArray[np.float32]) -> Predicted:
            return self._predicted(cut.outputs(sums, self._outputs), len(sums))

        def predict(features: Group, rows: Rows, sources: Rows) -> Predicted:
            changed = table.take(rows)
            lenders = table.take(sources)
            for feature in features:
                changed.column(feature)[:] = lenders.column(feature)
            return self.predict(changed)

        seen = cut.front.seen(self._feeds(table))
        if isinstance(cut, LinearModel):
            return LinearEvaluator(cut.linear, seen, reads, finish, predict, black_box, check=self.check)
        codes = cut.ensemble.codes(seen, self.check)
        if codes is None:
            return None
        return TreeEvaluator(cut.ensemble, codes, reads, finish, predict, black_box, check=self.check)

    @cached_property
    def unread(self) -> frozenset[int]:
        """Columns that the graph never reads: not connected with its outputs, or tested by no tree."""
        trees = self._cut
        if not isinstance(trees, TreeModel) or trees.front.head is not None:
            return self._unconnected
        first = self._offsets[trees.front.source]
        tested = {
            first + int(trees.ensemble.origin[c]) for c, found in enumerate(trees.ensemble.thresholds) if len(found)
        }
        width = next(len(i.features) for i in self._inputs if i.name == trees.front.source)
        return self._unconnected | (set(range(first, first + width)) - tested)

    @cached_property
    def _cut(self) -> TreeModel | LinearModel | None:
        model = self._model
        if self._fixed_rows is not None or model is None:
            return None
        try:
            cut = cut_at_trees(model, self._answer.scores, self._answer.label, self._cancellation) or cut_at_linear(
                model, self._outputs, self._cancellation
            )
        except (ModelRefused, KeyError, ValueError, IndexError):
            cut = None  # an operator that only the runtime understands is left to it
        self._model = None  # the graph is looked at once, and may be large
        return cut

    @cached_property
    def _offsets(self) -> dict[str, int]:
        """The number of the first feature of each input."""
        widths = [len(table_input.features) for table_input in self._inputs]
        return {i.name: sum(widths[:k]) for k, i in enumerate(self._inputs)}

    def engine(self, evaluator: Evaluator) -> dict[str, Any]:
        """Which way an evaluator went, for the answer; `audited` predictions were compared with the runtime's."""
        if not isinstance(evaluator, TreeEvaluator | LinearEvaluator) or evaluator.failed:
            return {"name": "black-box", "audited": 0}
        return {"name": "trees" if isinstance(evaluator, TreeEvaluator) else "linear", "audited": evaluator.audited}

    def saving(self, evaluator: Evaluator) -> float:
        """How many times cheaper than predicting every row an evaluator is, at least."""
        return 1.0 if isinstance(evaluator, BlackBox) else 2.0

    def black_box(self, table: Table, unread: frozenset[int] | None = None) -> BlackBox:
        """The way that fits every model: the runtime predicts every row, but for columns known to be unread."""
        return BlackBox(
            self.predict,
            table,
            run_rows=self.run_rows,
            task_rows=self._rows_within(RUN_SECONDS, 4 * RUN_ROWS),
            threads=self._threads,
            unread=self._unconnected if unread is None else unread,
            check=self.check,
        )

    @cached_property
    def run_rows(self) -> int:
        """Rows in one run, so that it takes no longer than `RUN_SECONDS`."""
        return self._rows_within(RUN_SECONDS, RUN_ROWS)

    def _rows_within(self, seconds: float, most: int) -> int:
        return int(np.clip(seconds * 1000 / max(self.card.forward_ms, 1e-6), 1, most))

    def evaluation_data(self) -> bytes:
        """The registered evaluation data, a CSV file; empty where there is none."""
        spec = self.card.tabular
        if self._folder is None or spec is None or spec.evaluation_data is None:
            return b""
        return _inside(self._folder, spec.evaluation_data).read_bytes()


def load_tabular(
    model: ModelProto,
    manifest: Manifest,
    folder: Path | None,
    identity: Identity,
    cancellation: Cancellation,
    threads: int,
) -> TabularModel:
    """A table model from its graph; changes `model` in place.

    Args:
        model: in the loading dialect.
        manifest: what is said of it from outside.
        folder: where its evaluation data and samples lie.
        identity: name, version and hash.
        cancellation: stops its runs from another thread.
        threads: runs at once; each has one thread, so that results do not depend on their number.

    Raises:
        ModelRefused: the graph is no table model, or the manifest does not fit it.
    """
    facts = tensor_facts(Graph(model).inputs), tensor_facts(model.graph.output)
    answer = read_answer(model, manifest)
    inputs = table_inputs(model, manifest)
    if manifest.task not in {None, answer.task}:
        raise ModelRefused(f'task = "{manifest.task}" does not fit the outputs, which are those of a {answer.task}.')
    if manifest.tabular.evaluation_data is not None and folder is not None:
        _inside(folder, manifest.tabular.evaluation_data)
    # One thread a session: then a row's prediction depends on that row alone, not on how many others there are.
    session = Session(model, cancellation, 1)
    forward_ms, scores = _tried(session, known_categories(model), inputs, answer)
    probable = answer.task == "regression" or not scores or are_probabilities(scores)
    warnings = answer.warnings
    if not probable:
        refused = "Metrics that need probabilities are refused."
        what = "are no probabilities: on trial rows they leave the range from 0 to 1, or do not sum to 1."
        warnings = (*warnings, f"The scores in '{answer.scores[0]}' {what} {refused}")
    card = ModelCard(
        name=identity.name,
        version=identity.version,
        sha256=identity.sha256,
        kind="tabular",
        task=answer.task,
        description=manifest.description,
        inputs=facts[0],
        outputs=facts[1],
        score_output=answer.scores[0] if answer.scores else answer.label or "",
        classes=answer.classes,
        tabular=TabularSpec(
            tuple(feature for table_input in inputs for feature in table_input.features),
            manifest.tabular.evaluation_data,
            manifest.tabular.label,
        ),
        explainers=("permutation-importance",),
        samples=_samples(folder),
        warnings=warnings,
        forward_ms=forward_ms,
    )
    return TabularModel(model, session, card, inputs, answer, folder, cancellation, threads, probable=probable)


def are_probabilities(scores: list[NDArray[Any]]) -> bool:
    """Whether scores of n rows, in one tensor or a tensor for each class, lie from 0 to 1 and sum to 1 (a single column need not).

    Rows without a finite score say nothing.
    """
    values = np.concatenate([part.reshape(len(part), -1) for part in scores], axis=1)
    values = values[np.isfinite(values).all(axis=1)]
    if not ((values >= -_NEAR) & (values <= 1 + _NEAR)).all():
        return False
    return values.shape[1] == 1 or bool((np.abs(values.sum(axis=1) - 1) <= _NEAR).all())


def _tried(
    session: Session, categories: frozenset[str] | None, inputs: tuple[TableInput, ...], answer: Answer
) -> tuple[float, list[NDArray[Any]]]:
    """Milliseconds a row on one thread, the best of three runs on made-up rows, and the scores of these; 0 and none where they are refused."""
    rows = next((i.rows for i in inputs if i.rows is not None), _TRIAL_ROWS)
    noise = Noise()
    texts = sorted(categories or {""})
    feeds = {}
    for table_input in inputs:
        dtype = table_input.features[0].dtype
        shape = (rows, len(table_input.features))
        block: NDArray[Any]
        if dtype == "string":
            block = np.array(texts, dtype=object)[(noise.uniform(shape) * len(texts)).astype(int)]
        else:
            block = noise.standard(shape).astype(np.bool_ if dtype == "bool" else dtype)
        feeds[table_input.name] = block[:, 0] if table_input.flat else block
    best = np.inf
    try:
        for _ in range(3):
            started = time.perf_counter()
            scores = session.run(feeds, [*answer.scores] or None)
            best = min(best, time.perf_counter() - started)
    except InputTooLarge as error:
        raise ModelRefused(
            f"The model needs more memory than a worker may use, even for {rows} rows; use a smaller one."
        ) from error
    except Exception:  # noqa: BLE001  # made-up rows may be refused by a graph that takes real ones
        return 0.0, []
    return float(best) * 1000 / rows, scores if answer.scores else []


def _unread(model: ModelProto, inputs: tuple[TableInput, ...]) -> frozenset[int]:
    """Columns of inputs from which no output is computed."""
    needed = Graph(model).needed_for([value.name for value in model.graph.output])
    unread, first = set(), 0
    for table_input in inputs:
        if table_input.name not in needed:
            unread |= set(range(first, first + len(table_input.features)))
        first += len(table_input.features)
    return frozenset(unread)


def _inside(folder: Path, relative: str) -> Path:
    path = (folder / relative).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        raise ModelRefused(
            f"evaluation_data '{relative}' is not a file in the model's folder; put it there, or leave the key out."
        )
    return path


def _samples(folder: Path | None) -> tuple[str, ...]:
    if folder is None or not (folder / "samples").is_dir():
        return ()
    return tuple(sorted(path.name for path in (folder / "samples").iterdir() if path.is_file()))
