"""Images in: the start of an image-to-image run, and the pixels that stay."""
