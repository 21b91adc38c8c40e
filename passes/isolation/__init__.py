"""The caller's code run apart from the caller: on copies of its model, with memory, randomness and state of their own.

Knows modules; whatever runs code of the caller's or of torch's imports it.
"""
