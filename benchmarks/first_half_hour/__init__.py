"""What benchmarks/gpu_first.py runs on a machine with an NVIDIA GPU and no network."""
