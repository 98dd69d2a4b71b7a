"""From torch modules to ONNX graphs and their data files."""
