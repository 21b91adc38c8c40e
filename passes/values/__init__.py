"""What stands for a value before there is data: the specs of tensors, and nests of them.

Knows only sizes and errors; every room from here on may import it.
"""
