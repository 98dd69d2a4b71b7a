"""What a run reports: log, progress, trackers and sample grids."""
