"""The thread that owns the runtimes, and how one call advances images at different rows."""
