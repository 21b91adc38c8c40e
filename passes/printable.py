"""Text from models, checkpoints and files as it may be shown.

A name in them may hold any character: escape sequences that a terminal obeys, line ends that begin a line of their own,
signs that turn the direction of writing, halves of surrogate pairs that no encoding takes. Such characters are shown
as Python writes them: `\\x1b`.
"""

from __future__ import annotations


def printable(text: str) -> str:
    """The text in one line of printable characters."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def printable_lines(text: str) -> str:
    """Text of several lines, each printable."""
    return text if text.isprintable() else "\n".join(map(printable, text.split("\n")))
