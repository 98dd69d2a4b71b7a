"""ONNX graphs in memory: their linear layers, and how these are quantized."""
