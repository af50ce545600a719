"""What a model is, inside a worker; the one home of ONNX Runtime."""

from app.model.image import ImageModel
from app.model.loading import load, load_unoptimised
from app.model.session import Cancellation
from app.model.tabular import TabularModel

__all__ = ["Cancellation", "ImageModel", "TabularModel", "load", "load_unoptimised"]
