"""Tasks of minit2i eval: edits, and images of published benchmarks with their scores."""
