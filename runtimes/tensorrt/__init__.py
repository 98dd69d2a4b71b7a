"""TensorRT and TensorRT-RTX: engines of a bundle's cache, without torch."""
