"""File containers: arrays by name, read without loading the whole file."""
