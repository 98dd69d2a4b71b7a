"""Optimizers, the moving average, and which parameters they update."""
