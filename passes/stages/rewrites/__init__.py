"""Rewrites of a program: rows that say what becomes what, and the one engine that applies them.

Knows the program, modules and ops, beside which the rows of a single op are declared; the stages import it.
"""
