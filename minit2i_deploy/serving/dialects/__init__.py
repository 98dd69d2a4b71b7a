"""The APIs that clients already speak, one module each."""
