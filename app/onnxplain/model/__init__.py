"""What a model is, inside a worker; the one home of ONNX Runtime."""

from onnxplain.model.loading import load, load_unoptimised
from onnxplain.model.pictures.picture_model import ImageModel
from onnxplain.model.runtime.sessions import Cancellation
from onnxplain.model.tables.table_model import TabularModel

__all__ = ["Cancellation", "ImageModel", "TabularModel", "load", "load_unoptimised"]
