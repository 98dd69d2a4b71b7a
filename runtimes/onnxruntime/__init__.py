"""ONNX Runtime: providers, sessions, state and CUDA graphs."""
