"""Reports of a run: log, progress, trackers and sample grids."""
