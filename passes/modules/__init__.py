"""What a torch module of the caller's is: whether it is lazy, what it leaves behind, what of it folds away.

Knows ops and values; every room from isolation on may import it.
"""
