"""PyTorch module to model.onnx, for the demo models: small, self-contained, with a dynamic batch axis."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from onnxscript.optimizer import fold_constants, remove_unused_nodes


def export(net: torch.nn.Module, example: torch.Tensor, path: Path, output: str) -> None:
    """Exports `net` with the input `picture`, of the shape of `example`, and the named output.

    The exporter's own optimiser would fold BatchNorm into the convolutions; only constants are folded here, so that the
    demo models hold what an export from elsewhere holds. Stack traces and module paths are dropped: they tell of the
    machine that trained the model, and weigh more than its graph.
    """
    program = torch.onnx.export(
        net,
        (example,),
        input_names=["picture"],
        output_names=[output],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
        optimize=False,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    fold_constants(model)
    remove_unused_nodes(model)
    graph = model.graph
    for described in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        described.ClearField("metadata_props")
        described.ClearField("doc_string")
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
