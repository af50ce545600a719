"""Table methods, and the metrics that they measure with."""
