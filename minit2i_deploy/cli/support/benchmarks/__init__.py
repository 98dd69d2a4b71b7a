"""minit2i eval paint and score: images of published benchmarks, and their scores."""
