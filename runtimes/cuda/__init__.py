"""The CUDA driver and device memory through cuda-python."""
