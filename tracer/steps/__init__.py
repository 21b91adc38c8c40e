"""The steps of a conversion, the state that they share, and what they give.

Knows what follows, reports and checks a model; commands import it.
"""
