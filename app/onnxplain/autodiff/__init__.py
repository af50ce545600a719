"""Own reverse-mode differentiation: ONNX in, ONNX out. Knows nothing of pictures, models on disk or HTTP."""

from onnxplain.autodiff.backward import Differentiated, MissingRule, differentiate, missing_rules
from onnxplain.autodiff.normalise import normalise
from onnxplain.autodiff.rule import RULES, ZERO_DERIVATIVE

__all__ = ["RULES", "ZERO_DERIVATIVE", "Differentiated", "MissingRule", "differentiate", "missing_rules", "normalise"]
