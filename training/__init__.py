"""Training: data, losses, the loop and recipes that make MiniT2I checkpoints (needs torch)."""
