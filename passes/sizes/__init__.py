"""What a size is: a number, or a formula over named dimensions, with the record of what was decided about it.

Knows nothing else of the compiler but formulas and how text is shown; every other room may import it.
"""
