"""What wraps every request: identity, keys, limits, what is logged and traced."""
