"""Formulas of sizes, as values: polynomials over names with divisions, extremes and rounded floats, in a normal form.

Knows nothing of a capture, of what is known of the names, or of the compiler; every other room may import it.
"""
