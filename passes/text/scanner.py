"""Reading one line of a program's text, from the left."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from typing import TypeVar

from passes.printable import printable

Read = TypeVar("Read")

NAME = r"[\w.]+"  # a module path, an attribute, a qualified name
QUOTED = r'"(?:[^"\\]|\\.)*"'
_BARE_NAME = re.compile(NAME)
_BARE_WORD = re.compile(r'[^\s"#][^\s"]*')  # a source line
_SHOWN = 40  # how many characters of what is found instead of what is expected


class MalformedTextError(Exception):
    """The line is not what it must be: `expected` says what, `column` where, from 0."""

    def __init__(self, expected: str, column: int):
        super().__init__(expected)
        self.expected = expected
        self.column = column

    def said_of(self, line: str) -> str:
        """What was expected in the line, and what was found; of that, the beginning."""
        found = line[self.column :]
        shown = found if len(found) <= _SHOWN else f"{found[:_SHOWN]}..."
        return f"expected {self.expected}, found {shown or 'the end of the line'}"


class Scanner:
    """A line and how much of it is read. Blanks between words mean nothing."""

    def __init__(self, line: str):
        self.line = line
        self.position = 0

    def rest(self) -> str:
        """What is not read yet, without the blanks before it."""
        return self.line[self._ahead() :]

    def is_before(self, pattern: str) -> bool:
        """Whether something that fits the pattern comes next; it is not read."""
        return re.compile(pattern).match(self.line, self._ahead()) is not None

    def found(self, sign: str) -> bool:
        """Whether the sign or word comes next; it is read then."""
        ends = r"(?!\w)" if sign[-1].isalnum() else ""
        return self.match(re.escape(sign) + ends) is not None

    def match(self, pattern: str) -> str | None:
        """What fits the pattern here, read, or None."""
        found = re.compile(pattern).match(self.line, self._ahead())
        if found is None:
            return None
        self.position = found.end()
        return found.group()

    def take(self, pattern: str, expected: str) -> str:
        """What fits the pattern here, read. Raises MalformedTextError."""
        found = self.match(pattern)
        if found is None:
            raise self.fault(expected)
        return found

    def expect(self, sign: str) -> None:
        """Reads a sign or word that must come next. Raises MalformedTextError."""
        if not self.found(sign):
            raise self.fault(f'"{sign}"')

    def name(self, expected: str) -> str:
        """A name, quoted where it is no plain one."""
        return self._unquoted(expected) if self.rest().startswith('"') else self.take(NAME, expected)

    def word(self, expected: str) -> str:
        """Anything without blanks, or quoted."""
        return self._unquoted(expected) if self.rest().startswith('"') else self.take(_BARE_WORD.pattern, expected)

    def string(self) -> str:
        """A quoted string."""
        return self._unquoted("a quoted string")

    def attempt(self, read: Callable[[], Read]) -> Read | None:
        """What `read` reads, or None, with nothing read, where the line has something else."""
        before = self.position
        try:
            return read()
        except MalformedTextError:
            self.position = before
            return None

    def end(self) -> None:
        """Raises MalformedTextError unless the whole line is read."""
        if self.rest():
            raise self.fault("the end of the line")

    def fault(self, expected: str) -> MalformedTextError:
        return MalformedTextError(expected, self._ahead())

    def _unquoted(self, expected: str) -> str:
        start = self._ahead()
        try:
            return str(ast.literal_eval(self.take(QUOTED, expected)))
        except (SyntaxError, ValueError) as error:  # `\x` without its digits
            raise MalformedTextError("a string with Python's escapes", start) from error

    def _ahead(self) -> int:
        """Where what comes next begins, behind blanks."""
        position = self.position
        while self.line[position : position + 1] == " ":
            position += 1
        return position


def quoted(text: str) -> str:
    """The text in quotes, in printable characters; JSON's escapes are among Python's."""
    return printable(json.dumps(text, ensure_ascii=False))


def name_text(name: str) -> str:
    """A name as `Scanner.name` reads it."""
    return name if _BARE_NAME.fullmatch(name) and name.isprintable() else quoted(name)


def word_text(word: str) -> str:
    """A word as `Scanner.word` reads it."""
    return word if _BARE_WORD.fullmatch(word) and word.isprintable() else quoted(word)
