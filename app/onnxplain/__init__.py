"""onnxplain: explanations for deployed ONNX models, over HTTP."""

__version__ = "0.1.0"
