"""The shipped models and the demo report."""
