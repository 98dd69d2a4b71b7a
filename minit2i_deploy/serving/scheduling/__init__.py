"""Which images run in the next call of a network: pure decisions, on a clock from outside."""
