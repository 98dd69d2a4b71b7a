"""Benchmarks: time of each stage of generation and embedding, for several engines in turns."""
