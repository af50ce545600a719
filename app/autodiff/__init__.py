"""Own reverse-mode differentiation: ONNX in, ONNX out. Knows nothing of pictures, models on disk or HTTP."""

from app.autodiff.backward import Differentiated, MissingRule, differentiate, missing_rules
from app.autodiff.normalise import normalise
from app.autodiff.rule import RULES, ZERO_DERIVATIVE

__all__ = ["RULES", "ZERO_DERIVATIVE", "Differentiated", "MissingRule", "differentiate", "missing_rules", "normalise"]
