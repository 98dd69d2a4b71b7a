"""Work in fixed blocks that any number of processes share, in any order, with the same result."""
