"""How permuted rows are predicted: by the model itself, or by walking what the model is made of."""
