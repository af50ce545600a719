"""Permutation importance beside scikit-learn and beside the bare runtime, the contestants taking turns.

    python benchmarks/permutation.py [--rounds 3] [--threads 2] [--only lightgbm]

Trains models on made-up data and explains 5,000 rows with 5 repeats. The bound is what it takes ONNX Runtime to make as many
predictions as there are permuted rows, and nothing else, in its best batch size and with threads inside a run or beside each
other, whichever is faster. The slow contestants do a share of the columns and are scaled up, which is fair since their work is
the same for each column. Each case writes its own row of RESULTS.md and leaves the others. Needs the `bench` extra.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime as ort
from heatmaps import write_section
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.inspection import permutation_importance

from onnxplain.explainers.tables.metrics import METRICS
from onnxplain.explainers.tables.permutation import Measure, Plan, Shuffles, importance
from onnxplain.explainers.tables.table import Table
from onnxplain.explainers.tables.truth import Truth
from onnxplain.model import Cancellation, TabularModel, load

ROWS, REPEATS = 5_000, 5
SHARE = 0.05  # of the columns that slow contestants do
QUICK = ("network", "logistic")  # here the bound does all columns: it is quick, and its margin small
BATCHES = (1_000, 2_500, 5_000, 10_000, 20_000, 100_000)
RESULTS = Path(__file__).parent / "RESULTS.md"


@dataclass(frozen=True)
class Case:
    """A trained model: as its library has it, and as ONNX."""

    name: str
    features: int
    native: Any
    onnx: bytes
    X: np.ndarray
    y: np.ndarray


def data(features: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    X = random.normal(size=(20_000, features)).astype(np.float32)
    signal = X @ random.normal(size=features) / np.sqrt(features) * 2 + X[:, 0] * X[:, 1]
    return X, (signal + random.normal(size=len(X)) * 0.5 > 0).astype(np.int64)


def train(name: str, threads: int) -> Case:
    kind, features, *sizes = name.split("-")
    X, y = data(int(features))
    native: Any
    if kind == "lightgbm":
        import lightgbm
        from onnxmltools import convert_lightgbm

        trees, depth = map(int, sizes)
        native = lightgbm.LGBMClassifier(
            n_estimators=trees, max_depth=depth, num_leaves=2**depth, min_child_samples=5, n_jobs=threads, verbose=-1
        )
        convert = convert_lightgbm
    elif kind == "xgboost":
        import xgboost
        from onnxmltools import convert_xgboost

        trees, depth = map(int, sizes)
        native = xgboost.XGBClassifier(n_estimators=trees, max_depth=depth, n_jobs=threads)
        convert = convert_xgboost
    else:
        native, convert = scikit_learn(kind, sizes, threads), None
    native.fit(X[ROWS:], y[ROWS:])
    if convert is not None:
        from onnxmltools.convert.common.data_types import FloatTensorType

        proto = convert(native, initial_types=[("input", FloatTensorType([None, int(features)]))], target_opset=15)
    else:
        from skl2onnx import to_onnx

        proto = to_onnx(native, X[:1], target_opset={"": 18, "ai.onnx.ml": 3}, options={"zipmap": False})
    return Case(name, int(features), native, proto.SerializeToString(), X[:ROWS], y[:ROWS])


def scikit_learn(kind: str, sizes: list[str], threads: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if kind == "forest":
        trees, depth = map(int, sizes)
        return RandomForestClassifier(trees, max_depth=depth, n_jobs=threads, random_state=0)
    if kind == "network":
        return make_pipeline(StandardScaler(), MLPClassifier((64, 32), max_iter=15, random_state=0))
    return make_pipeline(StandardScaler(), LogisticRegression())


def session(content: bytes, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


class OverRuntime(ClassifierMixin, BaseEstimator):
    """The ONNX file behind scikit-learn's interface."""

    def __init__(self, runtime: ort.InferenceSession) -> None:
        self.runtime = runtime
        self.classes_ = np.array([0, 1])

    def fit(self, X: Any, y: Any) -> OverRuntime:
        """Is asked for by scikit-learn's checks, and never called."""
        raise NotImplementedError

    def predict(self, X: Any) -> Any:
        """Predicted classes."""
        return self.runtime.run([self.runtime.get_outputs()[0].name], {self.runtime.get_inputs()[0].name: X})[0]


def ours(case: Case, model: TabularModel) -> Any:
    evaluator = model.evaluator(Table((case.X,)), to_the_bit=False)  # accuracy needs classes alone
    measure = Measure(METRICS["accuracy"], Truth(case.y, 2))
    groups = [(j,) for j in range(case.features)]
    return importance(evaluator, [measure], groups, Shuffles(ROWS, 0), Plan(REPEATS))["accuracy"].importances


def bound(case: Case, runtime: ort.InferenceSession, batch: int, beside: int, runs: int) -> None:
    """Predictions in runs of `batch` rows, `beside` of them at once."""
    name, output = runtime.get_inputs()[0].name, probabilities(runtime)
    X = np.tile(case.X, (-(-batch // ROWS), 1))[:batch]
    if beside == 1:
        for _ in range(runs):
            runtime.run([output], {name: X})
        return
    with ThreadPoolExecutor(beside) as executor:
        list(executor.map(lambda _: runtime.run([output], {name: X}), range(runs)))


def best_bound(case: Case, threads: int, share: float, tries: int) -> tuple[float, Callable[[], None]]:
    """The fastest way to make about this share of the predictions, and the exact share."""
    content, total = without_zipmap(case.onnx), ROWS * REPEATS * case.features
    ways = {
        1: session(content, threads),
        threads: session(content, 1),
    }  # threads inside a run, or runs beside each other
    cost: dict[tuple[int, int], float] = {}
    for batch in BATCHES * tries:
        for beside, runtime in ways.items():
            runs = max(beside, round(total * share / 5 / batch))
            taken = clock(lambda way=(runtime, batch, beside, runs): bound(case, *way))[0] / (runs * batch)
            cost[batch, beside] = min(taken, cost.get((batch, beside), taken))
    batch, beside = min(cost, key=lambda way: cost[way])
    runs = max(beside, round(total * share / batch))
    return runs * batch / total, lambda: bound(case, ways[beside], batch, beside, runs)


def probabilities(runtime: ort.InferenceSession) -> str:
    return runtime.get_outputs()[-1].name


def peer(estimator: Any, case: Case, share: float) -> Any:
    """scikit-learn on the first columns: the others are held fixed by an estimator that puts them back."""
    count = round(case.features * share)

    class First(ClassifierMixin, BaseEstimator):
        """The model as one of the first columns only."""

        def __init__(self) -> None:
            self.classes_ = np.array([0, 1])

        def fit(self, X: Any, y: Any) -> First:
            """Is asked for by scikit-learn's checks, and never called."""
            raise NotImplementedError

        def predict(self, X: Any) -> Any:
            """Predicted classes."""
            whole = case.X.copy()
            whole[:, :count] = X
            return estimator.predict(whole)

    found = permutation_importance(
        First(), case.X[:, :count], case.y, scoring="accuracy", n_repeats=REPEATS, random_state=0
    )
    return found.importances


def without_zipmap(content: bytes) -> bytes:
    """The bound would otherwise mostly build dictionaries."""
    import onnx

    model = onnx.load_from_string(content)
    for node in [node for node in model.graph.node if node.op_type == "ZipMap"]:
        position = [value.name for value in model.graph.output].index(node.output[0])
        value = onnx.helper.make_tensor_value_info(node.input[0], onnx.TensorProto.FLOAT, [None, None])
        model.graph.output[position].CopyFrom(value)
        model.graph.node.remove(node)
    return model.SerializeToString()


def clock(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds on the clock, seconds of all cores together, and the result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def compete(name: str, rounds: int, threads: int) -> str:
    case = train(name, threads)
    bare = session(without_zipmap(case.onnx), threads)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(case.onnx)
        model = load(path, name="bench", cancellation=Cancellation(), threads=threads)
    assert isinstance(model, TabularModel)
    share = max(1, round(case.features * SHARE)) / case.features
    quick = name.startswith(QUICK)
    contestants: dict[str, tuple[float, Callable[[], Any]]] = {
        "bound": best_bound(case, threads, 1.0 if quick else share, tries=3 if quick else 1),
        "ours": (1.0, lambda: ours(case, model)),
        "over runtime": (share, lambda: peer(OverRuntime(bare), case, share)),
        "native": (share, lambda: peer(case.native, case, share)),
    }
    times: dict[str, list[tuple[float, float]]] = {contestant: [] for contestant in contestants}
    results: dict[str, Any] = {}
    for _ in range(rounds):
        for contestant, (part, work) in contestants.items():
            wall, cpu, results[contestant] = clock(work)
            times[contestant].append((wall / part, cpu / part))
    single = peer(OverRuntime(session(case.onnx, 1)), case, share)
    same = np.array_equal(results["ours"][: len(single)], single)
    seconds = {contestant: statistics.median(w for w, _ in found) for contestant, found in times.items()}
    faster = statistics.median(b[0] / o[0] for b, o in zip(times["bound"], times["ours"], strict=True))
    cheaper = statistics.median(b[1] / o[1] for b, o in zip(times["bound"], times["ours"], strict=True))
    engine = model.engine(model.evaluator(Table((case.X,)), to_the_bit=False))["name"]
    row = (
        f"| {name} | {engine} | {rounds} | {seconds['ours']:.2f} | {seconds['bound']:.2f} | {seconds['over runtime']:.2f} | "
        f"{seconds['native']:.2f} | {faster:.2f} | {cheaper:.2f} | {seconds['native'] / seconds['ours']:.1f} | "
        f"{'yes' if same else 'no'} |"
    )
    print(row, flush=True)
    return row


CASES = (
    "lightgbm-30-200-6",
    "lightgbm-100-200-4",
    "lightgbm-100-300-8",
    "network-30",
    "network-100",
    "forest-30-100-12",
    "forest-30-500-16",
    "xgboost-100-200-6",
    "logistic-30",
    "logistic-100",
    "forest-100-500-16",
    "lightgbm-400-200-6",
    "logistic-400",
    "network-400",
)


def merged(row: str) -> list[str]:
    """The rows of RESULTS.md with this one in its place."""
    rows = {row.split()[1]: row}
    if RESULTS.exists():
        found = (line for line in RESULTS.read_text().splitlines() if line.startswith("| "))
        rows = {line.split()[1]: line for line in found if line.split()[1] in CASES} | rows
    return [rows[name] for name in CASES if name in rows]


def report(rows: list[str], given: argparse.Namespace) -> str:
    names = ("onnxruntime", "sklearn", "lightgbm", "xgboost", "numpy")
    versions = ", ".join(f"{name} {importlib.import_module(name).__version__}" for name in names)
    table = "\n".join(rows)
    return f"""
## Permutation importance

`python benchmarks/permutation.py --threads {given.threads}`: {ROWS:,} rows, {REPEATS} repeats, accuracy, all columns;
{given.threads} threads for each (trees and linear models use one) on {os.cpu_count()} cores; medians over the rounds, contestants taking turns. {versions}, Python {platform.python_version()}.
Names say columns, trees and depth.

*Bound*: ONNX Runtime making as many predictions and nothing else, in its best batch size, with threads inside a run or runs beside each
other. *Over runtime*: scikit-learn calling the same ONNX file; *native*: scikit-learn on the trained model. Slow ones did a twentieth of the
columns and are scaled up. *Faster*: bound / ours on the clock, and in processor seconds (*cheaper*), which other work on the machine disturbs
less. *Same*: whether all importances equal scikit-learn's over the single-threaded runtime to the last bit.

| model | engine | rounds | ours s | bound s | over runtime s | native s | faster than bound | cheaper | faster than native | same |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |
{table}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="cases that begin so; the rows of the others stay as they are")
    parser.add_argument("--print-only", action="store_true", help="do not write RESULTS.md")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in CASES:
        if name.startswith(given.only):
            row = compete(name, given.rounds, given.threads)
            if not given.print_only:
                write_section("permutation", report(merged(row), given))


if __name__ == "__main__":
    main()
