"""Measuring: arithmetic of the graphs, time of each stage, and several engines side by side."""
