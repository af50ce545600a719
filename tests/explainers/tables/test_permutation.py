"""Permutation importance against truths known without the code, and against defects that its peers have had."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.utils.random import sample_without_replacement

from onnxplain.explainers.evaluators.blackbox import BlackBox
from onnxplain.explainers.tables.exact import exact_importance
from onnxplain.explainers.tables.metrics import METRICS
from onnxplain.explainers.tables.permutation import Measure, PermutationImportance, Plan, Shuffles, importance
from onnxplain.explainers.tables.table import Table
from onnxplain.explainers.tables.truth import Predicted, Truth

COEF = np.array([1.0, 0.5, 0.2, 0.0])


def linear(table: Table) -> Predicted:
    return Predicted((table.blocks[0][:, : len(COEF)] @ COEF)[:, None])


def run(
    predict: Callable[[Table], Predicted],
    X: Any,
    truth: Truth,
    metrics: Sequence[str],
    plan: Plan = Plan(),  # noqa: B008  # frozen
    groups: Sequence[tuple[int, ...]] | None = None,
    n_samples: int | None = None,
) -> dict[str, PermutationImportance]:
    table = Table((X,))
    shuffles = Shuffles(len(X), plan.seed, n_samples)
    drawn = shuffles.drawn
    table, truth = (table, truth) if drawn is None else (table.take(drawn), truth[drawn])
    measures = [Measure(METRICS[name], truth) for name in metrics]
    groups = [(j,) for j in range(X.shape[1])] if groups is None else groups
    return importance(BlackBox(predict, table), measures, groups, shuffles, plan)


def test_scikit_learns_own_example() -> None:
    X = np.array([[1, 9, 9], [1, 9, 9], [1, 9, 9], [0, 9, 9], [0, 9, 9], [0, 9, 9]])
    y = np.array([1, 1, 1, 0, 0, 0])
    model = LogisticRegression().fit(X, y)

    def predict(table: Table) -> Predicted:
        return Predicted(model.predict_proba(table.blocks[0]), model.predict(table.blocks[0]))

    found = run(predict, X, Truth(y, 2), ["accuracy"], Plan(10, 0))["accuracy"]
    assert np.allclose(found.mean, [0.46666667, 0, 0])
    assert np.allclose(found.std, [0.22110832, 0, 0])


def test_permutations_are_those_of_the_legacy_generator_composed() -> None:
    sources = Shuffles(6, 0).take(4)
    assert sources.tolist() == [[1, 5, 0, 2, 3, 4], [5, 3, 2, 0, 4, 1], [3, 0, 2, 1, 5, 4], [3, 0, 2, 1, 5, 4]]


@pytest.mark.parametrize(("n", "m"), [(1000, 5), (1000, 500), (1000, 995), (50, 49)])
def test_rows_are_drawn_as_scikit_learn_draws_them(n: int, m: int) -> None:
    seed = np.random.RandomState(4).randint(np.iinfo(np.int32).max + 1)
    drawn = Shuffles(n, 4, m).drawn
    assert drawn is not None
    assert drawn.tolist() == sample_without_replacement(n, m, random_state=np.random.RandomState(seed)).tolist()


def test_linear_model_on_scaled_data_has_twice_the_squared_coefficients() -> None:
    X = np.random.default_rng(0).normal(size=(20_000, 4))
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    truth = Truth((X @ COEF)[:, None])
    found = exact_importance(BlackBox(linear, Table((X[:300],))), [Measure(METRICS["mse"], truth[:300])], [(0,)])["mse"]
    scaled = 2 * COEF[0] ** 2 * X[:300, 0].var()  # E(x' - x)^2 over all pairs is twice the variance
    assert found.importances[0, 0] == pytest.approx(scaled, rel=1e-12)
    sampled = run(linear, X, truth, ["mse"], Plan(3))["mse"]
    assert sampled.mean == pytest.approx(2 * COEF**2, rel=0.03, abs=1e-12)


def test_constant_model_has_importance_of_exactly_zero() -> None:
    X = np.random.default_rng(0).normal(size=(50, 3))
    y = np.arange(50.0)[:, None]
    for name in ("r2", "mse", "mae", "rmse", "mape"):
        found = run(lambda t: Predicted(np.full((t.n_rows, 1), 0.3)), X, Truth(y + 1), [name])[name]
        assert not found.importances.any()
        assert not found.standard_error.any()


def test_a_group_is_permuted_jointly_as_by_hand() -> None:
    random = np.random.default_rng(1)
    X = random.normal(size=(80, 4))
    y = (X @ COEF + X[:, 0] * X[:, 1])[:, None]

    def predict(table: Table) -> Predicted:
        block = table.blocks[0]
        return Predicted((block @ COEF + block[:, 0] * block[:, 1])[:, None])

    found = run(predict, X, Truth(y), ["mse"], Plan(4, 9), [(0, 1)])["mse"]
    sources = Shuffles(80, 9).take(4)
    by_hand = []
    for source in sources:
        permuted = X.copy()
        permuted[:, [0, 1]] = X[source][:, [0, 1]]
        by_hand.append(np.mean((predict(Table((permuted,))).values - y) ** 2))
    assert found.importances[0].tolist() == by_hand


def test_expected_permuted_loss_is_the_mean_of_switched_and_own_losses() -> None:
    random = np.random.default_rng(2)
    n = 40
    X = np.round(random.normal(size=(n, 4)), 1)
    y = (X @ COEF + random.normal(size=n))[:, None]
    measure = Measure(METRICS["mse"], Truth(y))
    box = BlackBox(linear, Table((X,)))
    found = exact_importance(box, [measure], [(0,), (1,)])["mse"]
    own = np.mean((linear(Table((X,))).values - y) ** 2)
    for j in (0, 1):
        switched = []
        for i in range(n):
            for k in range(n):
                if i != k:
                    row = X[[i]].copy()
                    row[0, j] = X[k, j]
                    switched.append(((linear(Table((row,))).values - y[i]) ** 2).item())
        expected = (n - 1) / n * np.mean(switched) + own / n
        assert found.importances[j, 0] == pytest.approx(expected - own, rel=1e-9)
    sampled = run(linear, X, Truth(y), ["mse"], Plan(2000))["mse"]
    assert np.abs(sampled.mean[:2] - found.mean) == pytest.approx(0, abs=4 * sampled.monte_carlo_error[:2].max())


def test_exact_importance_with_weights_is_the_mean_over_all_permutations() -> None:
    random = np.random.default_rng(12)
    X, weights = random.normal(size=(5, 4)), random.random(5)
    truth = Truth((X @ COEF + random.normal(size=5))[:, None], 0, weights)
    measure = Measure(METRICS["mae"], truth)
    found = exact_importance(BlackBox(linear, Table((X,))), [measure], [(0,), (0, 1)])["mae"]
    for entry, group in zip(found.importances[:, 0], ([0], [0, 1]), strict=True):
        losses = []
        for order in itertools.permutations(range(5)):
            permuted = X.copy()
            permuted[:, group] = X[list(order)][:, group]
            losses.append(measure.score(linear(Table((permuted,)))))
        assert entry == pytest.approx(measure.score(linear(Table((X,)))) - np.mean(losses), rel=1e-12)


def test_baseline_is_measured_on_the_drawn_rows() -> None:
    """On all rows, as scikit-learn has it, even columns that no model reads would get an importance."""
    X = np.random.default_rng(3).normal(size=(200, 5))
    y = (X[:, :4] @ COEF + np.random.default_rng(4).normal(size=200))[:, None]
    found = run(linear, X, Truth(y), ["r2"], n_samples=40)["r2"]
    assert not found.importances[3:].any()


def test_the_table_is_not_changed() -> None:
    X = np.random.default_rng(5).normal(size=(30, 4))
    before = X.copy()
    run(linear, X, Truth(np.zeros((30, 1))), ["mse"], groups=[(0, 1), (2,)])
    assert np.array_equal(X, before)


def test_the_global_random_state_is_left_alone() -> None:
    np.random.seed(0)  # noqa: NPY002
    state = np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    Shuffles(100, 1, 50).take(3)
    assert np.random.get_state()[1].tolist() == state  # type: ignore[index]  # noqa: NPY002


def test_negative_importances_stay_negative() -> None:
    X = np.random.default_rng(6).normal(size=(100, 4))
    y = -(X @ COEF)[:, None]  # the model is wrong about every sign
    found = run(linear, X, Truth(y), ["mse"])["mse"]
    assert found.mean[0] < 0


def test_values_that_are_nearly_equal_are_still_permuted() -> None:
    stamps = 1_700_000_000 + np.arange(20.0) * 500  # apart by less than one part in a million

    def predict(table: Table) -> Predicted:
        return Predicted(table.blocks[0] - 1_700_000_000)

    found = run(predict, stamps[:, None], Truth(stamps[:, None] - 1_700_000_000), ["mse"])["mse"]
    assert found.mean[0] > 0


def test_more_repeats_shrink_the_monte_carlo_error_and_not_the_sampling_error() -> None:
    random = np.random.default_rng(7)
    X = random.normal(size=(300, 4))
    y = (X @ COEF + random.normal(size=300))[:, None]
    few, many = (run(linear, X, Truth(y), ["mse"], Plan(r))["mse"] for r in (10, 160))
    assert few.monte_carlo_error[0] / many.monte_carlo_error[0] == pytest.approx(4, rel=0.5)
    assert few.sampling_error[0] / many.sampling_error[0] == pytest.approx(1, rel=0.2)


def test_one_repeat_has_a_standard_error_too() -> None:
    X = np.random.default_rng(8).normal(size=(100, 4))
    found = run(linear, X, Truth((X @ COEF)[:, None] + 0.1), ["mse"], Plan(1))["mse"]
    assert np.isnan(found.monte_carlo_error).all()
    assert (found.standard_error[:3] > 0).all()


@pytest.mark.parametrize(("metric", "mode"), [("mse", "5"), ("r2", "5"), ("mse", "exact"), ("mae", "1")])
def test_intervals_hold_the_true_importance_in_95_of_100_tables(metric: str, mode: str) -> None:
    """500 tables of 300 rows; the truth is that of a linear model: 2 coef^2 for the squared error."""
    random = np.random.default_rng(9)
    n, tables = 300, 500
    noise = 0.5
    total = COEF @ COEF + noise**2
    truths = {"mse": 2 * COEF**2, "r2": 2 * COEF**2 / total}
    # E|e + coef (x - x')| - E|e| for normal e, x, x'
    truths["mae"] = np.sqrt(2 / np.pi) * (np.sqrt(noise**2 + 2 * COEF**2) - noise)
    covered = np.zeros(3)
    for _ in range(tables):
        X = random.choice([-1.0, 1.0], (n, 4)) if mode == "exact" else random.normal(size=(n, 4))
        truth = Truth((X @ COEF + random.normal(size=n) * noise)[:, None])
        groups = [(0,), (1,), (2,)]
        if mode == "exact":
            found = exact_importance(BlackBox(linear, Table((X,))), [Measure(METRICS[metric], truth)], groups)[metric]
        else:
            found = run(linear, X, truth, [metric], Plan(int(mode), int(random.integers(2**31))), groups)[metric]
        covered += np.abs(found.mean - truths[metric][:3]) <= 1.968 * found.standard_error
    assert (covered / tables).mean() == pytest.approx(0.95, abs=0.02)


def test_a_time_budget_returns_the_best_answer_so_far() -> None:
    X = np.random.default_rng(10).normal(size=(50, 4))

    def slow(table: Table) -> Predicted:
        time.sleep(0.01)
        return linear(table)

    started = time.monotonic()
    box = BlackBox(slow, Table((X,)), run_rows=50)
    measure = Measure(METRICS["mse"], Truth((X @ COEF)[:, None]))
    found = importance(box, [measure], [(j,) for j in range(4)], Shuffles(50, 0), Plan(1000, max_seconds=0.3))["mse"]
    assert time.monotonic() - started < 2
    run_repeats = (~np.isnan(found.importances)).sum(axis=1)
    assert (run_repeats >= 1).all()
    assert (run_repeats < 1000).all()
    whole = run(linear, X, measure.truth, ["mse"], Plan(1000))["mse"].importances
    assert np.array_equal(found.importances[~np.isnan(found.importances)], whole[~np.isnan(found.importances)])


def test_a_time_budget_ends_exact_importance_and_unfinished_columns_have_none() -> None:
    random = np.random.default_rng(0)
    table = Table((np.column_stack([random.integers(0, 2, 200), random.normal(size=(200, 2))]),))

    def slowly(rows: Table) -> Predicted:
        time.sleep(0.01)
        return Predicted(rows.blocks[0] @ np.array([[1.0], [2.0], [3.0]]))

    evaluator = BlackBox(slowly, table, run_rows=200)
    measure = Measure(METRICS["mse"], Truth(evaluator.baseline().values))
    started = time.monotonic()
    result = exact_importance(evaluator, [measure], [(0,), (1,), (2,)], max_seconds=0.3)["mse"]
    assert time.monotonic() - started < 1.0  # all pairs would take 4 s
    whole = exact_importance(BlackBox(slowly, table), [measure], [(0,)])["mse"]
    assert result.importances[0] == whole.importances[0]
    assert np.isnan(result.importances[1:]).all()


def test_columns_whose_place_is_sure_are_repeated_no_further() -> None:
    X = np.random.default_rng(11).normal(size=(300, 4))
    found = run(linear, X, Truth((X @ COEF)[:, None]), ["mse"], Plan(200, settle=True))["mse"]
    assert (~np.isnan(found.importances)).sum() < 4 * 200 / 4
    assert np.argsort(-found.mean).tolist() == [0, 1, 2, 3]
