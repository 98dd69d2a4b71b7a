"""Forecasts of large jobs from a second of measurement: time, device hours, disk, memory."""
