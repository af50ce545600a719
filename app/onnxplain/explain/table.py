"""Explain a table: a task's body and options -> permutation importance -> the JSON document of the answer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxplain import tables
from onnxplain.explain.table_labels import read_truth, refuse_other_width
from onnxplain.explain.table_warnings import table_warnings
from onnxplain.explainers.tables.exact import exact_importance
from onnxplain.explainers.tables.guards import Doubts, find_doubts
from onnxplain.explainers.tables.metrics import METRICS, choose, prediction_change
from onnxplain.explainers.tables.permutation import (
    Evaluator,
    Group,
    Measure,
    PermutationImportance,
    Plan,
    Rows,
    Shuffles,
    importance,
)
from onnxplain.explainers.tables.table import Table
from onnxplain.explainers.tables.truth import Truth
from onnxplain.facts.errors import BadParameter, BadTable, TooExpensive
from onnxplain.facts.metrics import LABEL_FREE, METRIC_NAMES
from onnxplain.facts.options import Options, PermutationBody, checked
from onnxplain.facts.tasks import (
    ExplainTask,
    Importance,
    PermutationExplanation,
    Prediction,
    Predictions,
    PredictTask,
    Sent,
)
from onnxplain.model.tables.table_model import TabularModel
from onnxplain.tables import Decoded

_LOOKED_AT = 3  # permutations in which off-support rows are counted


@dataclass(frozen=True)
class Named:
    """Columns that are permuted together, and what to call them."""

    name: str
    features: Group


def predict_table(task: PredictTask, model: TabularModel) -> Predictions:
    """Predictions row by row: classes best first, or a number (a list of numbers where there are several targets)."""
    started = time.perf_counter()
    decoded = _decode(task, model, label=None)
    checked(Options, {key: value for key, value in decoded.options.items() if key != "sample_weight"})
    table = _table(decoded)
    decode_ms = _ms(started)
    started = time.perf_counter()
    predicted = model.black_box(table).baseline()
    if model.card.task == "regression":
        numbers = predicted.values.tolist()
        rows: list[Any] = [row[0] for row in numbers] if predicted.values.shape[1] == 1 else numbers
    else:
        said = predicted.classes.tolist() if predicted.classes is not None else [None] * table.n_rows
        rows = [
            _best_first(row, model.classes, best, probable=model.has_probabilities)
            for row, best in zip(predicted.values.tolist(), said, strict=True)
        ]
    return Predictions(rows, {"decode": decode_ms, "run": _ms(started)})


def _best_first(scores: list[float], classes: Sequence[str], best: int | None, *, probable: bool) -> list[Prediction]:
    """The classes of a row: first the one that the model itself gives, then by score."""
    order = sorted(range(len(classes)), key=lambda index: (index != best, -scores[index]))
    return [Prediction(index, classes[index], scores[index], scores[index] if probable else None) for index in order]


def explain_table(
    task: ExplainTask, model: TabularModel, progress: Callable[[float], None] = lambda _: None
) -> PermutationExplanation:
    """Permutation importance of every column, or of those that were asked for.

    Raises:
        MalformedInput, BadTable, BadParameter, InputTooLarge, UnsupportedMediaType: see `onnxplain.tables.read`; also labels,
            weights, columns or metrics that do not fit.
        TooExpensive: the work would take longer than one request may.
        Cancelled: stopped from another thread.
    """
    started = time.perf_counter()
    decoded = _decode(task, model, task.options.get("label"))
    options = checked(PermutationBody, {**dict(task.options), **decoded.options})
    table = _table(decoded)
    n = table.n_rows
    weights = _weights(options.sample_weight, n)
    labels = None if decoded.labels is None else read_truth(decoded.labels, n, model, weights)
    groups = _groups(model, options)
    decode_ms = _ms(started)

    started = time.perf_counter()
    exact = options.n_repeats == "exact"
    n_repeats = 1 if options.n_repeats == "exact" else options.n_repeats
    shuffles = Shuffles(n, options.seed, _n_samples(options.max_samples, n))
    drawn = shuffles.drawn
    if drawn is not None and weights is not None and not weights[drawn].sum() > 0:
        raise BadTable(
            "None of the rows that max_samples and seed draw has a weight; draw more rows, or weigh more of them."
        )
    sample = table if drawn is None else table.take(drawn)
    to_the_bit = not all(METRICS[name].smooth for name in options.metrics or () if name in METRICS)
    evaluator = model.evaluator(sample, len(groups), to_the_bit=to_the_bit)
    _check_price(task.limits.max_cost_ms, options, model, evaluator, sample.n_rows, groups)
    _refuse_no_number(evaluator.baseline().values, drawn)
    measures = _measures(options.metrics, model, labels, weights, drawn, evaluator)
    features = [group.features for group in groups]
    if exact:
        found = exact_importance(evaluator, measures, features, max_seconds=options.max_seconds, progress=progress)
    else:
        plan = Plan(n_repeats, options.seed, options.max_seconds, options.stop_when_ranked)
        baselines = None
        if drawn is not None and options.baseline_rows == "all":
            everything = model.evaluator(table)
            whole = _measures(options.metrics, model, labels, weights, None, everything)
            baselines = {measure.metric.name: measure.score(everything.baseline()) for measure in whole}
        found = importance(evaluator, measures, features, shuffles, plan, baselines=baselines, progress=progress)
    names = [group.name for group in groups]
    doubts = find_doubts(sample, features, Shuffles(sample.n_rows, options.seed).take(_LOOKED_AT), model.check)
    return PermutationExplanation(
        baseline={name: _unsigned(name, result.baseline, measures) for name, result in found.items()},
        importances={name: _importances(names, result, doubts, sample.n_rows) for name, result in found.items()},
        ranking={name: _ranking(names, result) for name, result in found.items()},
        n_rows=sample.n_rows,
        n_repeats=options.n_repeats,
        seed=options.seed,
        evaluations=1 + int(sum((~np.isnan(next(iter(found.values())).importances)).ravel())),
        warnings=tuple(table_warnings(model, sample, groups, found, options, doubts, labeled=labels is not None)),
        suggested_groups=tuple(tuple(model.features[j] for j in columns) for columns in doubts.groups),
        engine=model.engine(evaluator),
        timings_ms={"decode": decode_ms, "run": _ms(started)},
    )


def _decode(task: Sent, model: TabularModel, label: str | None) -> Decoded:
    """The caller's rows, or the registered evaluation data where none came."""
    max_cells = task.limits.max_cells
    decoded = tables.read(task.body, task.media_type, model.layout, label=label, max_cells=max_cells, check=model.check)
    if decoded.blocks is not None:
        return decoded
    registered = model.evaluation_data()
    if not registered:
        raise BadTable("No rows came, and the model has no registered evaluation data; send rows as JSON or CSV.")
    assert model.card.tabular is not None
    own = tables.read(registered, "text/csv", model.layout, label=model.card.tabular.label, max_cells=max_cells)
    return Decoded(own.blocks, own.labels, decoded.options)


def _table(decoded: Decoded) -> Table:
    assert decoded.blocks is not None
    return Table(decoded.blocks)


def _weights(weights: tuple[float, ...] | None, n: int) -> NDArray[np.float64] | None:
    if weights is None:
        return None
    if len(weights) != n:
        raise BadTable(f"sample_weight has {len(weights)} values for {n} rows; send one for each row.")
    array = np.array(weights)
    if not array.sum() > 0:
        raise BadTable("sample_weight is zero for every row; give at least one row a weight.")
    return array


def _n_samples(max_samples: float, n: int) -> int:
    """How many rows to draw; an integer is their number, a float their share."""
    if isinstance(max_samples, float):
        return max(1, int(max_samples * n))
    if max_samples > n:
        raise BadParameter(f"max_samples is {max_samples}, but the table has {n} rows; ask for at most that many.")
    return max_samples


def _groups(model: TabularModel, options: PermutationBody) -> list[Named]:
    """The wanted columns in column order, then the groups in the given order."""
    place = {name: i for i, name in enumerate(model.features)}

    def known(name: str) -> int:
        if name not in place:
            raise BadParameter(
                f"The model has no column '{name[:60]}'; GET /v1/models/{model.card.name} lists its features."
            )
        return place[name]

    wanted = range(len(place)) if options.features is None else sorted({known(name) for name in options.features})
    named = [Named(model.features[i], (i,)) for i in wanted]
    for name, columns in (options.groups or {}).items():
        if name in place:
            raise BadParameter(f"The group '{name[:60]}' has the name of a column; choose another name.")
        named.append(Named(name, tuple(dict.fromkeys(known(column) for column in columns))))
    if not named:
        raise BadParameter("features is empty and there are no groups; name at least one column.")
    return named


def _measures(
    names: tuple[str, ...] | None,
    model: TabularModel,
    labels: Truth | None,
    weights: NDArray[np.float64] | None,
    drawn: Rows | None,
    evaluator: Evaluator,
) -> list[Measure]:
    """Metrics with the truth of the rows that are permuted."""
    task = model.card.task
    if names is None:
        names = (METRIC_NAMES[task][0],) if labels is not None else (LABEL_FREE,)
    with_labels = tuple(name for name in names if name != LABEL_FREE)
    measures = []
    if with_labels:
        if labels is None:
            raise BadTable(
                f"{with_labels[0]} needs labels, and none came; send labels, name the label column, or use {LABEL_FREE}."
            )
        truth = labels if drawn is None else labels[drawn]
        if task == "regression":
            refuse_other_width(truth, evaluator.baseline().values.shape[1])
        chosen = choose(with_labels, task, truth)
        measures = [Measure(metric, truth) for metric in chosen]
        if not model.has_probabilities and (poor := [metric.name for metric in chosen if metric.probabilistic]):
            raise BadParameter(
                f"{poor[0]} needs probabilities, and this model gives none: it answers with labels, or with scores of another kind "
                "(decision values, distances, margins, votes). Use accuracy or f1_macro."
            )
    if LABEL_FREE in names:
        base = evaluator.baseline().values.astype(np.float64)
        rows = weights if weights is None or drawn is None else weights[drawn]
        measures.append(Measure(prediction_change(task), Truth(base, len(model.classes), rows)))
    return measures


def _refuse_no_number(predicted: NDArray[np.floating[Any]], drawn: Rows | None) -> None:
    """A metric of predictions that are no numbers is none either."""
    wrong = np.flatnonzero(~np.isfinite(predicted).all(axis=1))
    if wrong.size:
        row = (wrong[0] if drawn is None else drawn[wrong[0]]) + 1
        raise BadTable(
            f"The model answers with no finite number for {wrong.size} rows, the first of them row {row}, so its quality cannot be "
            "measured. Where values are missing, fill them in or leave the rows out."
        )


def _check_price(
    limit: float,
    options: PermutationBody,
    model: TabularModel,
    evaluator: Evaluator,
    n: int,
    groups: Sequence[Named],
) -> None:
    """Refuse what would take too long, with its price, before it is begun."""
    if limit == math.inf or (options.max_seconds is not None and options.max_seconds * 1000 <= limit):
        return
    if options.n_repeats == "exact":
        permuted = sum(len(evaluator.distinct(group.features)[1]) for group in groups)
    else:
        permuted = options.n_repeats * len(groups)
    price = n * permuted * model.card.forward_ms / model.saving(evaluator)
    if price > limit:
        raise TooExpensive(
            f"This would take about {price / 1000:,.0f} s of computing ({n:,} rows, {permuted:,} permuted copies), more than the "
            f"{limit / 1000:,.0f} s that one request may; send fewer rows, set max_samples, features or n_repeats, or max_seconds."
        )


def _unsigned(name: str, score: float, measures: Sequence[Measure]) -> float:
    """The metric as it is usually written: losses positive."""
    metric = next(measure.metric for measure in measures if measure.metric.name == name)
    return score if metric.greater_is_better else -score + 0.0


def _importances(names: Sequence[str], result: PermutationImportance, doubts: Doubts, n: int) -> tuple[Importance, ...]:
    mean, std = result.mean, result.std
    noise, sampling, error = result.monte_carlo_error, result.sampling_error, result.standard_error
    margin = _student_t(n - 1) * error
    return tuple(
        Importance(
            feature=name,
            mean=_number(mean[i]),
            std=_number(std[i]),
            standard_error=_number(error[i]),
            ci95=(_number(mean[i] - margin[i]), _number(mean[i] + margin[i])),
            monte_carlo_error=_number(noise[i]),
            sampling_error=_number(sampling[i]),
            off_support=_number(doubts.off_support[i]),
            values=tuple(value for value in result.importances[i].tolist() if value == value),  # noqa: PLR0124  # NaN: not run
        )
        for i, name in enumerate(names)
    )


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _student_t(freedom: int) -> float:
    """The 97.5 % point of Student's t distribution, by its expansion about the normal one (Abramowitz and Stegun 26.7.5)."""
    z, v = 1.959963984540054, max(freedom, 2)
    return z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)


def _ranking(names: Sequence[str], result: PermutationImportance) -> tuple[str, ...]:
    mean = np.where(np.isnan(result.mean), -np.inf, result.mean)
    return tuple(names[i] for i in np.argsort(-mean, kind="stable"))


def _ms(started: float) -> float:
    return (time.perf_counter() - started) * 1000
