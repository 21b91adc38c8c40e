"""Formulas over named dimensions as values: whole numbers, and floats, in a normal form, compared and printed alike.

Knows nothing of what is assumed about the names; every other room may import it.
"""
