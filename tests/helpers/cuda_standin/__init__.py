"""ONNX Runtime's real CUDA provider over stand-ins for CUDA's libraries, without a GPU."""
