"""What is written: the model's file, its metadata and its weights, whole or not at all.

Knows everything of the compiler; only the tool imports it.
"""
