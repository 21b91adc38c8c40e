"""The textual form of a program, printed and parsed.

Knows the program and how shapes are propagated; only the tool imports it.
"""
