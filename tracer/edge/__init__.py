"""The edge of the tool: what may be passed in, what may be raised, and which code is the caller's.

Knows only the compiler; every other room may import it.
"""
