"""The written file beside the module: whether they agree, and where they part.

Knows inputs and the edge; steps import it.
"""
