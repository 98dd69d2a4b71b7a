"""File formats as containers: arrays by name, read without loading the complete file."""
