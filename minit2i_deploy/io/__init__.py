"""Files that are complete or absent, strict JSON, images and HTML."""
