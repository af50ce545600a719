"""Models that take tables."""
