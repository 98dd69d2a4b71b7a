"""What every API shares: bodies, errors, keys, limits, metrics and the server itself."""
