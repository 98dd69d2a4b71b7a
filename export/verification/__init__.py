"""Exported graphs against PyTorch, and the bounds that they must keep."""
