"""A model's graph as a picture: as SVG, as text for other tools, as a page.

Knows reports; commands import it.
"""
