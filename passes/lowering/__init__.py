"""From the eager graph to ONNX: by the ops' lowerings, or through torch's exporter where one has none.

Knows the program and what is below it; files import it, and the tool.
"""
