"""Pictures: from a file's bytes to a model's input, and a map back onto the picture. The one home of Pillow."""
