"""Train the diabetes demo model: scaler and neural network in one pipeline, exported with one typed input a column.

    python models/diabetes/train.py

Needs the extra `train`. Writes model.onnx and samples/ beside this file; the seeds are fixed.
Data: Efron et al. 2004, Least Angle Regression, as scikit-learn ships it, in the original units.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
from skl2onnx import to_onnx
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

FOLDER = Path(__file__).parent
WHOLE = ["age", "sex"]  # whole numbers in the data set; all other columns are measurements


def main() -> None:
    X, y = load_diabetes(return_X_y=True, as_frame=True, scaled=False)
    X = X.astype({name: np.int64 if name in WHOLE else np.float32 for name in X.columns})
    X["sex"] -= 1
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.4, random_state=0)
    columns = ColumnTransformer(
        [("numbers", StandardScaler(), [n for n in X.columns if n != "sex"])], remainder="passthrough"
    )
    network = MLPRegressor(hidden_layer_sizes=(16,), alpha=2000.0, solver="lbfgs", max_iter=3000, random_state=0)
    model = make_pipeline(columns, network)
    model.fit(X_train, y_train)
    print(f"R2 on {len(y_test)} test rows: {model.score(X_test, y_test):.3f}")
    proto = to_onnx(model, X_train[:1], target_opset={"": 18, "ai.onnx.ml": 3})
    (FOLDER / "model.onnx").write_bytes(proto.SerializeToString())
    write_samples(X_test, y_test)


def write_samples(X: pd.DataFrame, y: pd.Series) -> None:
    samples = FOLDER / "samples"
    samples.mkdir(exist_ok=True)
    names = list(X.columns)
    rows = [
        [int(v) if n in WHOLE else float(str(np.float32(v))) for n, v in zip(names, row, strict=True)]
        for row in X.to_numpy()
    ]
    with (samples / "test.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*names, "progression"])
        writer.writerows([*row, label] for row, label in zip(rows, y, strict=True))
    objects = [dict(zip(names, row, strict=True)) for row in rows[:3]]
    (samples / "predict.json").write_text(json.dumps({"rows": objects}) + "\n", encoding="utf-8")
    objects = [dict(zip(names, row, strict=True)) for row in rows[:40]]
    request = {
        "rows": objects,
        "labels": [float(label) for label in y[:40]],
        "metrics": ["r2", "mse"],
        "n_repeats": 10,
        "groups": {"cholesterol": ["s1", "s2", "s3", "s4"]},
    }
    (samples / "permutation-importance.json").write_text(json.dumps(request) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
