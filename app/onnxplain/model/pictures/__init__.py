"""Models that take pictures."""
