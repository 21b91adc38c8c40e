"""The program: a captured graph with all that is known of it, the pipeline that it goes through, and questions to it.

Knows ops, modules and values; all stages import it.
"""
