"""Heatmap methods."""
