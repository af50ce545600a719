"""The gradient rules, a file per family of operators. Importing this package fills `onnxplain.autodiff.rule.RULES`."""

from onnxplain.autodiff.rules import (  # noqa: F401 - imported for their entries in the table
    activations,
    classical,
    convolution,
    elementwise,
    indexing,
    linear,
    normalisation,
    pooling,
    quantisation,
    reductions,
    resampling,
    shape,
)
