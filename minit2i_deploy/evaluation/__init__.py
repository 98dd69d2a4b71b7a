"""What a bundle is measured by: prompt following, image distances, comparisons and time."""
