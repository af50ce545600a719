"""Train the breast-cancer demo model: gradient boosted trees, exported with the dictionary output that such exports have.

    python models/breast-cancer/train.py

Needs the extra `train`. Writes model.onnx and samples/ beside this file; the seeds are fixed.
Data: Breast Cancer Wisconsin (Diagnostic), Wolberg et al. 1995, as scikit-learn ships it.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import lightgbm
import numpy as np
from onnxmltools import convert_lightgbm
from onnxmltools.convert.common.data_types import FloatTensorType
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

FOLDER = Path(__file__).parent


def main() -> None:
    data = load_breast_cancer()
    names = [name.replace(" ", "_") for name in data.feature_names]
    # float32 before training: then the trees of the ONNX file and those of LightGBM see the same values.
    X = data.data.astype(np.float32)
    X_train, X_test, y_train, y_test = train_test_split(
        X, data.target, test_size=0.4, random_state=0, stratify=data.target
    )
    model = lightgbm.LGBMClassifier(
        n_estimators=60, num_leaves=8, learning_rate=0.15, random_state=0, deterministic=True, n_jobs=1, verbose=-1
    )
    model.fit(X_train, y_train)
    print(f"accuracy on {len(y_test)} test rows: {model.score(X_test, y_test):.3f}")
    inputs = [("input", FloatTensorType([None, len(names)]))]
    proto = convert_lightgbm(model, name="breast-cancer", initial_types=inputs, target_opset=15)
    (FOLDER / "model.onnx").write_bytes(proto.SerializeToString())
    write_samples(names, X_test, [str(data.target_names[label]) for label in y_test])


def write_samples(names: list[str], X: np.ndarray, labels: list[str]) -> None:
    samples = FOLDER / "samples"
    samples.mkdir(exist_ok=True)
    rows = [[float(str(value)) for value in row] for row in X]  # the shortest digits that give the same float32
    with (samples / "test.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*names, "diagnosis"])
        writer.writerows([*row, label] for row, label in zip(rows, labels, strict=True))
    request = {"columns": names, "rows": rows[:3]}
    (samples / "predict.json").write_text(json.dumps(request) + "\n", encoding="utf-8")
    request = {
        "columns": names,
        "rows": rows[:40],
        "labels": labels[:40],
        "metrics": ["accuracy", "log_loss"],
        "n_repeats": 10,
        "seed": 0,
    }
    (samples / "permutation-importance.json").write_text(json.dumps(request) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
