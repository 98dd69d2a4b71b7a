"""LoRA: adapter layers, their targets, their folder and their objective."""
