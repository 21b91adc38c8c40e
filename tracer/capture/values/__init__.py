"""What stands for a value while a forward is traced: numbers that come from shapes, and tensors.

Knows the capture only as a recorder, memory and the edge; nothing but the capture imports it.
"""
