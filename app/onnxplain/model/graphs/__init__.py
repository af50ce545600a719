"""A model's graph as something to ask: an index over its nodes, and the shape of every tensor."""
