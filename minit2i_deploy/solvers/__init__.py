"""Solvers compiled to tables of rows, the guidance columns in them, and the start noise."""
