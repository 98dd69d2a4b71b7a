"""From text to the tokens of the denoiser, and to embeddings in files."""
