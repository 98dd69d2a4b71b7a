"""Export: torch to ONNX, and the checks that go with it."""
