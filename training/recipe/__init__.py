"""A training run as typed values, read from YAML."""
