"""Activation ranges recorded along the model's own trajectories."""
