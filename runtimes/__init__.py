"""Runtimes: one small protocol and one file for each engine library."""
