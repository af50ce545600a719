"""The one home of ONNX Runtime: sessions, cancellation, memory."""
