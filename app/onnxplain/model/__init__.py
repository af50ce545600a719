"""What a model is, inside a worker; the one home of ONNX Runtime."""

from onnxplain.model.image import ImageModel
from onnxplain.model.loading import load, load_unoptimised
from onnxplain.model.session import Cancellation
from onnxplain.model.tabular import TabularModel

__all__ = ["Cancellation", "ImageModel", "TabularModel", "load", "load_unoptimised"]
