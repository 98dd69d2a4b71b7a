"""Folders in the forms of other libraries, made from a bundle."""
