"""The parts of minit2i generate: what to generate, where it goes, and the batches."""
