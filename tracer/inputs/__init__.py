"""What the caller gives beside the model: samples, names of sizes, weights, files.

Knows only the compiler; every room above it may import it.
"""
