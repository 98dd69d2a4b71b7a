"""Bundles on disk: manifest, files and checks, and what may be done with a finished one."""
