"""What a model's numbers mean: its input, its scores, its classes."""
