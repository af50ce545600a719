"""The methods: NumPy only. They take callables and arrays, and know neither models nor files nor HTTP."""
