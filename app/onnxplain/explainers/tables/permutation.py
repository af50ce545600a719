"""Permutation importance with scikit-learn's numbers: how much a model's score falls when a feature's values are shuffled.

Reference: Breiman 2001, doi:10.1023/A:1010933404324; the random numbers are those of
`sklearn.inspection.permutation_importance`, so that its importances and ours are equal at the same seed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from onnxplain.explainers.tables.metrics import Metric
from onnxplain.explainers.tables.truth import Predicted, Truth

_HELD = 1 << 22  # most rows times repeats whose predictions are held at once

Rows = NDArray[np.intp]
Group = tuple[int, ...]


@dataclass(frozen=True)
class Job:
    """Predictions wanted: in repeat k, row i has the `features` of row `sources[k, i]` (int[r, n])."""

    features: Group
    sources: Rows


@dataclass(frozen=True)
class Measure:
    """A metric and the truth that it compares with."""

    metric: Metric
    truth: Truth

    def score(self, predicted: Predicted) -> float:
        """The metric, signed so that greater is better."""
        return self.metric.score(self.truth, predicted)

    def influence(self, predicted: Predicted) -> NDArray[np.float64]:
        """What each row adds to the score, float64[n]."""
        return self.metric.row_effects(self.truth, predicted)


class Evaluator(Protocol):
    """Predicts a table whose columns were permuted; how, and how fast, is its own affair.

    The order of the answers is that of the jobs. A cluster may hold one evaluator for each share of the features.
    """

    def baseline(self) -> Predicted:
        """Predictions for the table as it is: values[n, k], classes[n]."""
        ...

    def permuted(self, jobs: Sequence[Job]) -> Iterator[Predicted]:
        """Predictions job by job: values[r, n, k], classes[r, n]."""
        ...

    def distinct(self, features: Group) -> tuple[Rows, Rows]:
        """Rows whose values of these features make no difference to the model.

        Returns:
            int[n], the number of each row's value, and int[u], a row that has the value of each number.
        """
        ...


@dataclass(frozen=True)
class Plan:
    """What to compute, and when to stop.

    Attributes:
        n_repeats: permutations of each feature.
        seed: as scikit-learn's `random_state`.
        max_seconds: stop after about this time, with what is known then.
        settle: stop repeating a feature once its place in the ranking is sure.
    """

    n_repeats: int = 5
    seed: int = 0
    max_seconds: float | None = None
    settle: bool = False


@dataclass
class PermutationImportance:
    """What one metric says.

    Attributes:
        baseline: the metric's score before any permutation, greater is better.
        importances: float64[d, r], baseline score minus permuted score; NaN where a repeat was not run.
        sampling_error: float64[d], standard error of the mean that only more rows would remove (with one repeat, which
            cannot be told apart, that of Monte-Carlo noise is included).
    """

    baseline: float
    importances: NDArray[np.float64]
    sampling_error: NDArray[np.float64]

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean over the repeats, float64[d]."""
        return self._over_repeats(np.mean)

    @property
    def std(self) -> NDArray[np.float64]:
        """Standard deviation over the repeats, float64[d], divided by their number as scikit-learn does."""
        return self._over_repeats(np.std)

    def _over_repeats(self, reduce: Callable[..., NDArray[np.float64]]) -> NDArray[np.float64]:
        if not np.isnan(self.importances).any():
            # The same array and axis as scikit-learn: the same rounding.
            return np.asarray(reduce(self.importances, axis=1))
        run = [values[~np.isnan(values)] for values in self.importances]
        return np.array([reduce(values) if len(values) else np.nan for values in run])

    @property
    def monte_carlo_error(self) -> NDArray[np.float64]:
        """Standard error of the mean that more repeats would remove, float64[d]; NaN from one repeat."""
        counts = (~np.isnan(self.importances)).sum(axis=1)
        spread = np.full(len(counts), np.nan)
        enough = counts > 1
        spread[enough] = np.nanvar(self.importances[enough], axis=1, ddof=1) / counts[enough]
        error: NDArray[np.float64] = np.sqrt(spread)
        return error

    @property
    def standard_error(self) -> NDArray[np.float64]:
        """Both errors together, float64[d]: how far the mean may lie from the importance in the whole population."""
        return np.sqrt(self.sampling_error**2 + np.nan_to_num(self.monte_carlo_error) ** 2)


class Shuffles:
    """Which rows are drawn and how they are permuted, as scikit-learn does it for every feature alike.

    Args:
        n_rows: rows of the table.
        seed: scikit-learn's `random_state`.
        n_samples: how many rows to draw without replacement; None for all.

    Attributes:
        drawn: intp[m], the drawn rows; None for all in their order.
    """

    def __init__(self, n_rows: int, seed: int, n_samples: int | None = None) -> None:
        self._random = np.random.RandomState(np.random.RandomState(seed).randint(np.iinfo(np.int32).max + 1))
        self.drawn: Rows | None = None
        if n_samples is not None and n_samples < n_rows:
            self.drawn = _without_replacement(n_rows, n_samples, self._random)
            n_rows = n_samples
        self._shuffled = np.arange(n_rows)
        self._source = np.arange(n_rows)

    def take(self, count: int) -> Rows:
        """The next permutations, intp[count, m]: the row, among those drawn, that lends its value."""
        sources = np.empty((count, len(self._source)), dtype=np.intp)
        for repeat in range(count):
            self._random.shuffle(self._shuffled)
            # scikit-learn shuffles the shuffled column again, with indices that are shuffled further.
            self._source = self._source[self._shuffled]
            sources[repeat] = self._source
        return sources


def _without_replacement(population: int, size: int, random: np.random.RandomState) -> Rows:
    """`sklearn.utils.random.sample_without_replacement`: which algorithm draws depends on the share drawn."""
    share = size / population
    if 0.01 < share < 0.99:
        return random.permutation(population)[:size].astype(np.intp)
    if share < 0.2:
        selected: dict[int, None] = {}
        while len(selected) < size:
            selected[random.randint(population)] = None
        return np.array(list(selected), dtype=np.intp)
    reservoir = np.arange(size)
    for row in range(size, population):
        place = random.randint(0, row + 1)
        if place < size:
            reservoir[place] = row
    return reservoir


def importance(
    evaluator: Evaluator,
    measures: Sequence[Measure],
    groups: Sequence[Group],
    shuffles: Shuffles,
    plan: Plan,
    *,
    baselines: Mapping[str, float] | None = None,
    progress: Callable[[float], None] = lambda _: None,
) -> dict[str, PermutationImportance]:
    """Permute each group of features and measure how much every metric falls.

    Args:
        evaluator: predicts the rows.
        measures: what to measure, all from the same predictions.
        groups: features to permute together, each a tuple of column numbers.
        shuffles: the permutations.
        plan: when to stop.
        baselines: other baseline scores by metric (scikit-learn measures them on all rows even where only some are
            permuted); default: those of the evaluator's own rows.
        progress: is told the finished share.

    Returns:
        metric name -> importances, in the order of `groups`.
    """
    base = evaluator.baseline()
    tallies = [_Tally(measure, base, len(groups), plan.n_repeats, baselines) for measure in measures]
    started = time.monotonic()
    active = list(range(len(groups)))
    first, last = 0, 1 if plan.settle or plan.max_seconds is not None else _block(plan.n_repeats, base)
    done = 0
    while first < plan.n_repeats and active:
        sources = shuffles.take(last - first)
        borrowers = np.empty_like(sources)
        np.put_along_axis(borrowers, sources, np.arange(sources.shape[1])[None, :], axis=1)
        jobs = [Job(groups[g], sources) for g in active]
        for g, predicted in zip(active, evaluator.permuted(jobs), strict=True):
            for tally in tallies:
                tally.add(g, first, predicted, borrowers)
            done += last - first
            progress(done / (len(groups) * plan.n_repeats))
            if plan.max_seconds is not None and time.monotonic() - started > plan.max_seconds:
                return {tally.name: tally.result() for tally in tallies}
        if plan.settle and last > 2:
            active = [g for g in active if not all(tally.settled(g) for tally in tallies)]
        more = _round(plan, last, time.monotonic() - started)
        first, last = last, min(plan.n_repeats, last + _block(more, base))
    progress(1.0)
    return {tally.name: tally.result() for tally in tallies}


def _round(plan: Plan, repeats: int, seconds: float) -> int:
    """How many repeats to run before looking again whether to stop: half as many as there are, within a tenth of the time."""
    if plan.max_seconds is None and not plan.settle:
        return plan.n_repeats
    size = max(1, repeats // 2)
    if plan.max_seconds is None:
        return size
    return max(1, int(min(size, plan.max_seconds / 10 * repeats / max(seconds, 1e-9))))


def _block(repeats: int, base: Predicted) -> int:
    """At most so many repeats that what is held at once stays small."""
    return max(1, min(repeats, _HELD // len(base.values)))


class _Effects:
    """What the permutations of one group take from each row's share of the score, summed over the repeats.

    A row counts as itself and as the one that lends its value. float32 is enough for standard errors, and half as large.
    """

    def __init__(self, n: int) -> None:
        self._by_row = np.zeros(n, dtype=np.float32)
        self._by_lender = np.zeros(n, dtype=np.float32)
        self._squares = 0.0
        self._repeats = 0

    def add(self, loss: NDArray[np.float64], borrower: Rows) -> None:
        short = loss.astype(np.float32)
        self._by_row += short
        self._by_lender += short.take(borrower)
        self._squares += float(loss @ loss)
        self._repeats += 1

    def variance(self) -> float:
        """Variance of the mean over draws of the rows.

        The loss of row i with the value of row m is modelled as mu + alpha_i + beta_m + epsilon_im. A row is drawn once
        and serves as both, so the variance is var(alpha_i + beta_i) / n. Means over r repeats are noisy: their
        variances hold 1 / r of what is not their own, which is taken out again.
        """
        n, r = len(self._by_row), self._repeats
        if n < 2 or not r:
            return np.nan
        rows = self._by_row / float(r)
        lenders = self._by_lender / float(r)
        mean = rows.mean(dtype=np.float64)
        whole = self._squares / (n * r) - mean**2
        both = 2 * np.mean((rows - mean) * (lenders - mean), dtype=np.float64)
        if r > 1:
            alpha = (rows.var(dtype=np.float64) * r - whole) / (r - 1)
            beta = (lenders.var(dtype=np.float64) * r - whole) / (r - 1)
            whole = max(alpha, 0.0) + max(beta, 0.0)
        return float(max(whole + both, 0.0) / (n - 1))


class _Tally:
    """Importances of one metric as they come in, and what their errors need."""

    def __init__(
        self, measure: Measure, base: Predicted, n_groups: int, n_repeats: int, baselines: Mapping[str, float] | None
    ) -> None:
        self.name = measure.metric.name
        self._measure = measure
        self._baseline = measure.score(base) if baselines is None else baselines[self.name]
        self._unpermuted = measure.influence(base)
        self._importances = np.full((n_groups, n_repeats), np.nan)
        self._variance = np.full(n_groups, np.nan)
        self._effects: dict[int, _Effects] = {}

    def add(self, group: int, first: int, predicted: Predicted, borrowers: Rows) -> None:
        """Take the predictions of some repeats; `borrowers[k, m]` is the row that has the values of row m."""
        effects = self._effects.setdefault(group, _Effects(len(self._unpermuted)))
        for k, borrower in enumerate(borrowers):
            permuted = predicted[k]
            self._importances[group, first + k] = self._baseline - self._measure.score(permuted)
            effects.add(self._unpermuted - self._measure.influence(permuted), borrower)
        if first + len(borrowers) == self._importances.shape[1]:  # nothing more will come
            self._variance[group] = self._effects.pop(group).variance()

    def result(self) -> PermutationImportance:
        for group, effects in self._effects.items():
            self._variance[group] = effects.variance()
        return PermutationImportance(self._baseline, self._importances, np.sqrt(self._variance))

    def settled(self, group: int) -> bool:
        """Whether the place of a feature in the ranking is beyond Monte-Carlo doubt (three standard errors apart)."""
        result = PermutationImportance(self._baseline, self._importances, self._variance)
        mean, noise = result.mean, result.monte_carlo_error
        gaps = np.abs(mean - mean[group]) > 3 * np.hypot(noise, noise[group])
        equal = (noise == 0) & (noise[group] == 0) & (mean == mean[group])  # both exactly known: a tie is a tie
        others = np.arange(len(mean)) != group
        return bool(np.all((gaps | equal)[others]))
