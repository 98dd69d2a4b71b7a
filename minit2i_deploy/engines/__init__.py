"""The cache of built engines in a bundle: keys, records, locks and fitness."""
