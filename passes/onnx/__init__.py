"""ONNX in memory, as the ops see it and as it is passed on: what a lowering writes into, element types, precision.

Knows only values and sizes; the ops import it for its types, and what lowers or writes a graph for the rest.
"""
