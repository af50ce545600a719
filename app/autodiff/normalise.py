"""One dialect for the rules: every model is brought to a form in which an operator is written in one way only."""

from __future__ import annotations

import onnx
from onnx import inliner, version_converter

DIALECT = 18  # from this opset on axes, bounds, pads and splits are inputs; rules write and read it


def normalise(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with local functions inlined and at least opset 18; itself where nothing is to do."""
    if model.functions:
        model = inliner.inline_local_functions(model)
    if any(o.domain in ("", "ai.onnx") and o.version < DIALECT for o in model.opset_import):
        model = version_converter.convert_version(model, DIALECT)
    return model
