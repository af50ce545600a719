"""Make the table models of tests/vectors/tables: what the common exporters write, small, on made-up data.

    python tests/vectors/make_tables.py

Needs the extra `train` and xgboost; catboost where it is installed (its own models are left as they are where it is not).
Each model lies in a folder of its own, as the service would have it; data.npz and mixed.csv hold the tables.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

FOLDER = Path(__file__).parent / "tables"
OPSETS = {"": 18, "ai.onnx.ml": 3}
N, F = 160, 6


def numbers() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    X = random.normal(size=(N, F)).astype(np.float32)
    X[:, 3] = random.integers(0, 2, N)
    X[:, 5] = np.round(X[:, 5])
    signal = 2 * X[:, 0] + X[:, 1] * X[:, 3] + X[:, 5]
    holes = X.copy()
    holes[random.random((N, F)) < 0.1] = np.nan
    three = np.digitize(signal, [-1, 1])
    return {
        "X": X,
        "holes": holes,
        "two": (signal + random.normal(size=N) > 0).astype(np.int64),
        "three": three.astype(np.int64),
        "number": (signal + random.normal(size=N) * 0.5).astype(np.float64),
        "numbers": np.stack([signal, X[:, 2] - signal], axis=1).astype(np.float64),
        "weight": random.random(N),
    }


def mixed() -> Any:
    import pandas as pd

    random = np.random.default_rng(1)
    frame = pd.DataFrame(
        {
            "age": random.integers(18, 80, N),
            "income": random.normal(size=N).astype(np.float32),
            "colour": random.choice(["red", "green", "blue"], N),
            "size": random.choice(["S", "M", "L"], N),
        }
    )
    target = (frame["income"] + (frame["colour"] == "red") * 2 + (frame["age"] > 50) > 1).map(
        {True: "yes", False: "no"}
    )
    return frame, target


def save(name: str, model: onnx.ModelProto | bytes, manifest: str = "") -> None:
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    content = model if isinstance(model, bytes) else model.SerializeToString()
    (folder / "model.onnx").write_bytes(content)
    if manifest:
        (folder / "model.toml").write_text(manifest, encoding="utf-8")


def scikit_learn(data: dict[str, np.ndarray]) -> None:
    from skl2onnx import to_onnx
    from sklearn import ensemble, impute, linear_model, naive_bayes, neighbors, neural_network, svm, tree
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, StandardScaler

    X, two, three, number = (data[key] for key in ("X", "two", "three", "number"))
    letters, apart = np.array(["a", "b", "c"])[three], np.array([10, 12, 14])[three]
    forest = {"n_estimators": 12, "max_depth": 5, "random_state": 0}

    def add(name: str, model: Any, y: np.ndarray, X: np.ndarray = X, **options: Any) -> None:
        model.fit(X, y)
        chosen = {id(model): options} if options else None
        save(name, to_onnx(model, X[:1], target_opset=OPSETS, options=chosen))

    add("logistic", linear_model.LogisticRegression(), two)
    add("logistic-strings", linear_model.LogisticRegression(), letters, zipmap=False)
    add("logistic-columns", linear_model.LogisticRegression(), three, zipmap="columns")
    add("linear", linear_model.Ridge(), number)
    add("forest", ensemble.RandomForestClassifier(**forest), two)
    add("forest-apart", ensemble.RandomForestClassifier(**forest), apart)
    add("forest-deep", ensemble.RandomForestRegressor(n_estimators=20, random_state=0), number)
    add("extra-trees-two-targets", ensemble.ExtraTreesRegressor(**forest), data["numbers"])
    add("boosting", ensemble.GradientBoostingClassifier(n_estimators=15, random_state=0), two)
    add("boosting-three", ensemble.GradientBoostingClassifier(n_estimators=8, random_state=0), letters)
    add("boosting-number", ensemble.GradientBoostingRegressor(n_estimators=15, random_state=0), number)
    add("tree", tree.DecisionTreeClassifier(max_depth=4, random_state=0), letters)
    add("ada-boost", ensemble.AdaBoostClassifier(n_estimators=6, random_state=0), two)
    add("scaled-forest", make_pipeline(MinMaxScaler(), ensemble.RandomForestRegressor(**forest)), number)
    filled = make_pipeline(impute.SimpleImputer(), StandardScaler(), ensemble.RandomForestClassifier(**forest))
    add("filled-forest", filled, two, data["holes"])
    network = {"hidden_layer_sizes": (8,), "max_iter": 300, "random_state": 0}
    add("network", make_pipeline(StandardScaler(), neural_network.MLPClassifier(**network)), letters)
    add("network-number", make_pipeline(StandardScaler(), neural_network.MLPRegressor(**network)), number)
    add("support-vectors", svm.SVR(), number)
    add("neighbours", neighbors.KNeighborsRegressor(), number)
    add("bayes", naive_bayes.GaussianNB(), three)

    frame, target = mixed()
    encoded = ColumnTransformer(
        [
            ("text", OneHotEncoder(handle_unknown="ignore"), ["colour", "size"]),
            ("numbers", StandardScaler(), ["age", "income"]),
        ]
    )
    for name, model in (
        ("mixed-forest", ensemble.RandomForestClassifier(**forest)),
        ("mixed-logistic", linear_model.LogisticRegression()),
    ):
        pipeline = make_pipeline(encoded, model).fit(frame, target)
        save(name, to_onnx(pipeline, frame[:1], target_opset=OPSETS))
    frame.assign(answer=target).to_csv(FOLDER / "mixed.csv", index=False)


def boosters(data: dict[str, np.ndarray]) -> None:
    import lightgbm
    import xgboost
    from onnxmltools import convert_lightgbm, convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType

    inputs = [("input", FloatTensorType([None, F]))]
    small = {"n_estimators": 12, "max_depth": 3, "random_state": 0, "n_jobs": 1}
    X, two, three, number = (data[key] for key in ("X", "two", "three", "number"))
    for name, model, y in (
        ("lightgbm", lightgbm.LGBMClassifier(**small, min_child_samples=5, verbose=-1), two),
        (
            "lightgbm-three",
            lightgbm.LGBMClassifier(**small, min_child_samples=5, verbose=-1),
            np.array([3, 5, 9])[three],
        ),
        ("lightgbm-number", lightgbm.LGBMRegressor(**small, min_child_samples=5, verbose=-1), number),
        ("lightgbm-holes", lightgbm.LGBMRegressor(**small, min_child_samples=5, verbose=-1), number),
    ):
        model.fit(data["holes"] if name.endswith("holes") else X, y)
        save(name, convert_lightgbm(model, name=name, initial_types=inputs, target_opset=15))
    sets = {"categorical_feature": [3, 5], "max_cat_to_onehot": 1, "min_data_per_group": 1, "cat_smooth": 0}
    model = lightgbm.LGBMClassifier(**small, **sets, min_child_samples=5, verbose=-1).fit(X, two)
    save("lightgbm-categories", convert_lightgbm(model, initial_types=inputs, target_opset=15))
    for name, model, y in (
        ("xgboost", xgboost.XGBClassifier(**small), two),
        ("xgboost-three", xgboost.XGBClassifier(**small), three),
        ("xgboost-number", xgboost.XGBRegressor(**small), number),
    ):
        model.fit(X, y)
        save(name, convert_xgboost(model, initial_types=inputs, target_opset=15))


def torch_networks(data: dict[str, np.ndarray]) -> None:
    import torch

    torch.manual_seed(0)
    X = torch.from_numpy(data["X"])
    batch = ({0: torch.export.Dim("batch")},)
    for name, width, shapes, manifest in (
        ("torch-logits", 3, batch, 'task = "classification"\nclasses = ["a", "b", "c"]\n'),
        ("torch-number", 1, batch, ""),
        ("torch-one-row", 1, None, ""),
    ):
        net = torch.nn.Sequential(torch.nn.Linear(F, 16), torch.nn.ReLU(), torch.nn.Linear(16, width))
        target = torch.from_numpy(data["three"]) if width == 3 else torch.from_numpy(data["number"]).float()[:, None]
        loss = torch.nn.CrossEntropyLoss() if width == 3 else torch.nn.MSELoss()
        optimiser = torch.optim.Adam(net.parameters(), lr=0.02)
        for _ in range(100):
            optimiser.zero_grad()
            loss(net(X), target).backward()
            optimiser.step()
        example = (X[: 1 if shapes is None else 2],)
        program = torch.onnx.export(net.eval(), example, dynamic_shapes=shapes, external_data=False, verbose=False)
        model = program.model_proto
        for part in (model, model.graph, *model.graph.node):
            part.ClearField("metadata_props")
        save(name, model, manifest)


def cat_boost(data: dict[str, np.ndarray]) -> None:
    import catboost

    small = {
        "iterations": 12,
        "depth": 3,
        "random_seed": 0,
        "thread_count": 1,
        "verbose": False,
        "allow_writing_files": False,
    }
    for name, model, y in (
        ("catboost", catboost.CatBoostClassifier(**small), data["two"]),
        ("catboost-three", catboost.CatBoostClassifier(**small), data["three"]),
        ("catboost-number", catboost.CatBoostRegressor(**small), data["number"]),
    ):
        model.fit(data["X"], y)
        path = FOLDER / name
        path.mkdir(parents=True, exist_ok=True)
        model.save_model(str(path / "model.onnx"), format="onnx", export_parameters={"onnx_graph_name": name})


def main() -> None:
    warnings.simplefilter("ignore")
    FOLDER.mkdir(exist_ok=True)
    data = numbers()
    np.savez_compressed(FOLDER / "data.npz", **data)
    makers: tuple[Callable[[dict[str, np.ndarray]], None], ...] = (scikit_learn, boosters, torch_networks, cat_boost)
    for maker in makers:
        try:
            maker(data)
        except ImportError as error:
            print(f"{maker.__name__} left out: {error}")


if __name__ == "__main__":
    main()
