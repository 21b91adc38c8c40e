"""Sizes, and floats over sizes, as the nodes of an ONNX graph that compute them from the inputs' shapes.

Everything is of shape [1]: sizes in int64, floats in float64, operation by operation as Python computes them. What
recurs is computed once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, Protocol

import torch

from passes.onnx.value import Value
from passes.sizes.dimension import Dim
from passes.sizes.facts import Facts
from passes.sizes.floating import Floating
from passes.sizes.formulas.formula import Atom, Formula, Max, Min, Mod, Rounded, Symbol, Whole
from passes.sizes.formulas.real import Found, Real
from passes.sizes.unknown import DataSize


class Graph(Protocol):
    """What the nodes are written into: an emitter."""

    def node(self, op_type: str, *inputs: Value | None, **attributes: Any) -> Value: ...

    def constant(self, numbers: Any, dtype: torch.dtype | None = None) -> Value: ...

    def ints(self, *numbers: int) -> Value: ...

    def cast(self, value: Value, dtype: torch.dtype) -> Value: ...

    def unsupported(self, reason: str) -> NoReturn: ...

    def axis_size(self, value: Value, axis: int) -> Value: ...


class ComputedSizes:
    """The sizes that an emitter's graph computes; `known` are the values of those that it has by now."""

    def __init__(self, emit: Graph):
        self._emit = emit
        self.known: dict[Formula | Real, Value] = {}
        self._sources: dict[str, tuple[Formula, Value, int]] = {}
        self._numbers: dict[str, Value] = {}
        self._promised = Facts()

    def note(self, value: Value, axis: int, size: Dim) -> None:
        """Notes that an input has a named size at an axis, or a multiple of one and more.

        A name is taken from an axis that it is the size of, where there is one.
        """
        self._promise(size)
        for symbol in size.symbols():
            known = self._sources.setdefault(symbol, (size.formula, value, axis))
            if size.formula == Formula.symbol(symbol) != known[0]:
                self._sources[symbol] = size.formula, value, axis

    def note_number(self, number: Dim | Floating, value: Value) -> None:
        """Notes a number that comes from data: a name, of an integer or a float, and a value of shape [1]."""
        if isinstance(number, Dim):
            self._promise(number)
            self._numbers[number.symbols()[0]] = self._emit.cast(value, torch.int64)
        else:
            self._numbers[number.symbols()[0]] = self._emit.cast(value, torch.float64)

    def _promise(self, size: Dim) -> None:
        facts = size.log.facts
        self._promised = Facts(given=facts.given, of_data=facts.of_data)

    def afresh(self) -> ComputedSizes:
        """Of the same inputs, with nothing computed yet."""
        other = ComputedSizes(self._emit)
        other._sources, other._promised = self._sources, self._promised
        return other

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Inside the block all sizes are known that are known by now; what comes to be known there, is only there."""
        before = self.known, self._sources, self._numbers
        self.known, self._sources, self._numbers = dict(before[0]), dict(before[1]), dict(before[2])
        try:
            yield
        finally:
            self.known, self._sources, self._numbers = before

    def size(self, size: Whole | DataSize) -> Value:
        """A size as an int64 value."""
        if isinstance(size, int):
            return self._emit.ints(size)
        if isinstance(size, DataSize):
            self._emit.unsupported(f"the {size.what} is known only from the result itself")
        if size not in self.known:
            self.known[size] = self._sum(size)
        return self.known[size]

    def real(self, real: Real) -> Value:
        """A float over sizes as a float64 value."""
        if real not in self.known:
            operands = [
                self.real(operand)
                if isinstance(operand, Real)
                else self._number(operand)
                if isinstance(operand, (int, float))
                else self._numbers[operand.name]
                if isinstance(operand, Found)
                else self._emit.cast(self.size(operand), torch.float64)
                for operand in real.operands
            ]
            self.known[real] = _FUNCTIONS[real.function](self._emit, *operands)
        return self.known[real]

    def _number(self, number: float) -> Value:
        return self._emit.constant([float(number)], torch.float64)

    def _sum(self, formula: Formula) -> Value:
        total: Value | None = None
        for monomial, coefficient in formula.terms.items():
            term = self._emit.ints(coefficient) if coefficient != 1 or not monomial else None
            for atom in monomial:
                factor = self._atom(atom)
                term = factor if term is None else self._emit.node("Mul", term, factor)
            assert term is not None
            total = term if total is None else self._emit.node("Add", total, term)
        assert total is not None
        return total

    def _atom(self, atom: Atom) -> Value:
        emit = self._emit
        if isinstance(atom, Symbol):
            return self._named(atom)
        if isinstance(atom, Rounded):
            return emit.cast(emit.node(atom.how.capitalize(), self.real(atom.real)), torch.int64)
        if isinstance(atom, (Max, Min)):
            return emit.node(type(atom).__name__, *map(self.size, atom.parts))
        above, below = self.size(atom.numerator), self.size(atom.denominator)
        if isinstance(atom, Mod):
            return emit.node("Mod", above, below)
        if self._promised.low(atom.numerator) < 0:
            # ONNX divides towards zero, which is the floor where nothing is left over
            above = emit.node("Sub", above, emit.node("Mod", above, below))
        return emit.node("Div", above, below)

    def _named(self, symbol: Symbol) -> Value:
        """A name's size, from an input's axis; or the number that was found in data."""
        if symbol.name in self._numbers:
            return self._numbers[symbol.name]
        size, source, axis = self._sources[symbol.name]
        found = self._emit.axis_size(source, axis)
        more = size.constant
        times = size.at({symbol.name: 1}) - more
        if more:
            found = self._emit.node("Sub", found, self._emit.ints(more))
        return found if times == 1 else self._emit.node("Div", found, self._emit.ints(times))


# Functions of floats --------------------------------------------------------------------------------


def _node(op_type: str) -> Callable[..., Value]:
    return lambda emit, *operands: emit.node(op_type, *operands)


def _logarithm(base: float) -> Callable[[Graph, Value], Value]:
    """A logarithm for a base, which is whole for the base's powers: those are tried."""

    def lower(emit: Graph, x: Value) -> Value:
        number = [emit.constant([float(value)], torch.float64) for value in (math.log(base), base)]
        found = emit.node("Div", emit.node("Log", x), number[0])
        whole = emit.node("Round", found)
        return emit.node("Where", emit.node("Equal", emit.node("Pow", number[1], whole), x), whole, found)

    return lower


_FUNCTIONS: dict[str, Callable[..., Value]] = {
    "float": lambda emit, x: x,
    "neg": _node("Neg"),
    "abs": _node("Abs"),
    "+": _node("Add"),
    "-": _node("Sub"),
    "*": _node("Mul"),
    "/": _node("Div"),
    "**": _node("Pow"),
    "max": _node("Max"),
    "min": _node("Min"),
    "sqrt": _node("Sqrt"),
    "exp": _node("Exp"),
    "log": _node("Log"),
    "log2": _logarithm(2),
    "log10": _logarithm(10),
    "sin": _node("Sin"),
    "cos": _node("Cos"),
    "tanh": _node("Tanh"),
}

__all__ = ["ComputedSizes"]
