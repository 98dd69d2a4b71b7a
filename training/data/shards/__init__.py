"""Tar shards of images and captions: format, index, storage, embeddings."""
