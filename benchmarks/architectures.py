"""Exact gradients of exported architectures, held against references computed in float64 by the framework they came from.

    python benchmarks/architectures.py FOLDER [FOLDER ...] [--forward]

Each folder holds `model.onnx` and `reference.npz`: `x`, `logits`, `target`, `input_gradient` and, for networks with a spatial
layer, `activations`, `layer_gradient`, `gradcam`. Printed for each: the opset, how long differentiation takes, the relative L2 error of
the Grad-CAM map, relative error and cosine of the input gradient, and with `--forward` what the input gradient costs in forward runs.
Ends with status 1 if a map is off by more than 1e-3 or a cosine below 0.9999.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from onnxplain.autodiff import differentiate, normalise
from onnxplain.autodiff.graph import Graph
from onnxplain.facts.errors import ExplainError

Array = NDArray[np.float64]


def session(model: onnx.ModelProto, threads: int = 2) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options)


def find_layer(model: onnx.ModelProto, x: Array, activations: Array) -> str | None:
    """The tensor of the graph that holds the reference's activations, as channels first or last; the last one that does."""
    graph = Graph(model)
    for channels_last in (False, True):
        wanted = activations.transpose(1, 2, 0) if channels_last else activations
        names = [
            n
            for node in graph.nodes
            for n in node.output
            if (graph.shape(n) or ())[1:] == wanted.shape and graph.is_float(n)
        ]
        exposed = onnx.ModelProto()
        exposed.CopyFrom(model)
        declared = {o.name for o in model.graph.output}
        exposed.graph.output.extend(
            onnx.helper.make_tensor_value_info(n, graph.dtype(n) or 1, None) for n in names if n not in declared
        )
        if names:
            found = session(exposed).run(names, {model.graph.input[0].name: x})
            near = [
                n
                for n, v in zip(names, found, strict=True)
                if np.linalg.norm(v[0] - wanted) < 1e-3 * np.linalg.norm(wanted)
            ]
            if near:
                return near[-1]
    return None


def median_of(run: ort.InferenceSession, feeds: dict[str, Array], times: int = 15) -> float:
    durations = []
    for _ in range(times):
        start = time.perf_counter()
        run.run(None, feeds)
        durations.append(time.perf_counter() - start)
    return float(np.median(durations))


def check(folder: Path, forward: bool) -> bool:
    """Print one row; whether the architecture is within its limits."""
    name = f"{folder.parent.name}/{folder.name}"
    reference = np.load(folder / "reference.npz")
    exported = onnx.load(folder / "model.onnx")
    source, output, x = exported.graph.input[0].name, exported.graph.output[0].name, reference["x"]
    cotangent = np.zeros_like(reference["logits"])
    cotangent[0, int(reference["target"])] = 1
    try:
        start = time.perf_counter()
        model = normalise(exported)
        result = differentiate(model, output, [source])
        took = time.perf_counter() - start
        run = session(result.model)
        feeds = {source: x, "cotangent": cotangent}
        names = [o.name for o in result.model.graph.output]
        gradient = run.run(None, feeds)[names.index(result.gradients[source])].astype(np.float64)
        expected = reference["input_gradient"]
        error = np.linalg.norm(gradient - expected) / np.linalg.norm(expected)
        cosine = np.sum(gradient * expected) / np.linalg.norm(gradient) / np.linalg.norm(expected)
        map_error = None
        layer = find_layer(model, x, reference["activations"]) if "gradcam" in reference else None
        if layer:
            part = differentiate(model, output, [layer])
            names = [o.name for o in part.model.graph.output]
            answer = session(part.model).run(None, feeds)
            a, g = (answer[names.index(n)][0].astype(np.float64) for n in (layer, part.gradients[layer]))
            if a.shape != reference["activations"].shape:
                a, g = a.transpose(2, 0, 1), g.transpose(2, 0, 1)
            heat = np.maximum(np.einsum("c,cuv->uv", g.mean((1, 2)), a), 0)
            norm = np.linalg.norm(reference["gradcam"])
            map_error = np.linalg.norm(heat - reference["gradcam"]) / norm if norm else np.linalg.norm(heat)
    except (ExplainError, RuntimeError) as failure:
        print(f"{name:36s} FAILED {type(failure).__name__}: {str(failure)[:160]}", flush=True)
        return False
    except Exception as failure:  # noqa: BLE001 - ONNX Runtime's errors have no common base; the sweep goes on
        print(f"{name:36s} FAILED {type(failure).__name__}: {str(failure)[:160]}", flush=True)
        return False
    shown = "     -   " if map_error is None else f"{map_error:.1e}"
    cost = f"  cost {median_of(run, feeds) / median_of(session(exported), {source: x}):.2f}" if forward else ""
    good = cosine > 0.9999 and (map_error is None or map_error < 1e-3)
    print(
        f"{name:36s} opset {exported.opset_import[0].version:2d}  {took:5.2f} s  map {shown:9s} input {error:.1e}  cosine {cosine:.7f}{cost}{'' if good else '  <-- off'}",
        flush=True,
    )
    return bool(good)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--forward", action="store_true", help="also time the gradient against a forward run")
    arguments = parser.parse_args()
    good = [check(folder, arguments.forward) for folder in arguments.folders if (folder / "reference.npz").exists()]
    print(f"{sum(good)} of {len(good)} within limits")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
