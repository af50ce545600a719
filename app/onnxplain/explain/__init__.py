"""A task inside a worker: read the request, look the method up, answer."""
