"""From the caller's model to a program: followed by tracing, else on meta tensors, else on data.

Knows memory, inputs and the edge; steps and commands import it.
"""
