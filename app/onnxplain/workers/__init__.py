"""Where an explanation runs: worker processes, and what crosses to them and back."""
