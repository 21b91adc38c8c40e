"""The stages before ONNX: shapes propagated, weights drawn or loaded, the graph eager, the caller's passes, simplified.

Knows the program and isolation. The stages do not import each other; what lowers, writes or prints a program imports
them, and the tool.
"""
