"""Plain data about a model, and its words.

Knows only the compiler and the edge; drawings, steps, commands and the command line import it.
"""
