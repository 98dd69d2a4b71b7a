"""PyTorch: the bundle's weights in the reference network."""
