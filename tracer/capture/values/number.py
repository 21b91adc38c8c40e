"""A number that came from a shape, while a forward is traced.

Fixed numbers never enter the graph: they are passed on as literals. Numbers over a dynamic dimension become graph
nodes when an operation needs them. A question that decides something (a branch, a length, a loop) is answered and
recorded as a guard.
"""

from __future__ import annotations

import builtins
import math
import operator
import sys
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import fx

from passes.errors import CaptureError, NeedsDataError, ShapeError
from passes.ops.data_numbers import real_number, whole_number
from passes.program.unknown_sizes import needs_data
from passes.sizes.dimension import Dim
from passes.sizes.floating import Floating, UnevenRoundingError
from passes.sizes.unknown import UnknownSizeError
from passes.values.numbers import computed, is_dynamic
from tracer.capture.values.native_number import SYMBOLIC, FixedNode, check_seen
from tracer.edge.source_lines import only_tells
from tracer.memory.recorder import Recorder

_SYMBOLS: dict[Callable[..., Any], str] = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.floordiv: "//",
    operator.truediv: "/",
    operator.mod: "%",
    operator.pow: "**",
    operator.eq: "==",
    operator.ne: "!=",
    operator.lt: "<",
    operator.le: "<=",
    operator.gt: ">",
    operator.ge: ">=",
    operator.and_: "&",
    operator.or_: "|",
    operator.xor: "^",
    operator.lshift: "<<",
    operator.rshift: ">>",
}
# What is not defined for a dynamic size.
_ON_FIXED = frozenset({operator.or_, operator.xor})
_OF_NUMPY: dict[Any, Callable[..., Any]] = {
    np.add: operator.add,
    np.subtract: operator.sub,
    np.multiply: operator.mul,
    np.floor_divide: operator.floordiv,
    np.true_divide: operator.truediv,
    np.remainder: operator.mod,
    np.equal: operator.eq,
    np.not_equal: operator.ne,
    np.less: operator.lt,
    np.less_equal: operator.le,
    np.greater: operator.gt,
    np.greater_equal: operator.ge,
    np.power: operator.pow,
    np.left_shift: operator.lshift,
    np.right_shift: operator.rshift,
    np.negative: operator.neg,
    np.absolute: abs,
    np.maximum: max,
    np.minimum: min,
    np.sqrt: math.sqrt,
    np.exp: math.exp,
    np.log: math.log,
    np.log2: math.log2,
    np.log10: math.log10,
    np.sin: math.sin,
    np.cos: math.cos,
    np.tanh: math.tanh,
}
# Those of numpy's that give a float where Python gives an int.
_WHOLE_OF_NUMPY: dict[Any, Callable[..., Any]] = {
    np.floor: math.floor,
    np.ceil: math.ceil,
    np.trunc: math.trunc,
    np.rint: round,
}
_ROUND_ELSEWHERE = "compute it with integers, or give fixed sizes for these dimensions"
_COMPARISONS = frozenset({operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge})


class TracedNumber:
    """An int, float or bool that came from a shape: its value now, and how it was computed.

    `value` is a number, or a `Dim` or `Floating` where it depends on a dynamic dimension.
    """

    __slots__ = ("__weakref__", "_node", "_operands", "_operation", "tracer", "value")

    def __init__(self, tracer: Recorder, value: Any, operation: Any, operands: tuple[Any, ...]):
        self.tracer = tracer
        self.value = value
        self._operation = operation
        self._operands = operands
        self._node: fx.Node | None = None
        tracer.made.append(weakref.ref(self))

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """What torch's native code takes this for."""
        return SYMBOLIC.get(self.kind, self.kind)

    @property
    def kind(self) -> type:
        """The type of the number that this stands for."""
        if self.is_dynamic:
            return int if isinstance(self.value, Dim) else float
        return builtins.type(self.value)

    @property
    def node(self) -> FixedNode:
        """What torch's native code asks where it does not hand a call over. Raises ShapeError for a dynamic number."""
        check_seen()
        return FixedNode(self.fixed("in native code"))

    @property
    def is_dynamic(self) -> bool:
        return is_dynamic(self.value)

    def found_by(self, node: fx.Node) -> None:
        """Says which node gives the number, where there is one already."""
        self._node = node

    def as_argument(self) -> Any:
        """What a graph node takes in this number's place: a literal, or the node that computes it."""
        if not self.is_dynamic:
            return self.value
        if self._node is None:
            arguments = tuple(_argument(operand) for operand in self._operands)
            kind = "call_method" if isinstance(self._operation, str) else "call_function"
            self._node = self.tracer.create_node(kind, self._operation, arguments, {})
        return self._node

    def text(self) -> str:
        """The number as an expression over the traced tensors: `x.shape[1] % 2`."""
        if isinstance(self._operation, str):
            return (
                self._operand_text(0)
                if len(self._operands) == 1
                else f"{self._operand_text(0)}.shape[{self._operands[1]}]"
            )
        if self._operation in (whole_number, real_number):
            return f"{self._operand_text(0)}.item()"
        symbol = _SYMBOLS.get(self._operation)
        if symbol is None or len(self._operands) != 2:
            name = getattr(self._operation, "__name__", str(self._operation))
            return f"{name}({', '.join(self._operand_text(i) for i in range(len(self._operands)))})"
        nested = self._operation not in _COMPARISONS
        return f"{self._operand_text(0, nested)} {symbol} {self._operand_text(1, nested)}"

    def _operand_text(self, index: int, nested: bool = False) -> str:
        operand = self._operands[index]
        if type(operand) is TracedNumber:
            inner = operand.text()
            return f"({inner})" if nested and " " in inner else inner
        return operand.name if isinstance(operand, fx.Node) else str(operand)

    def combined(self, operation: Callable[..., Any], *operands: Any) -> Any:
        operands = tuple(operand.item() if _is_scalar_of_numpy(operand) else operand for operand in operands)
        values = [operand.value if type(operand) is TracedNumber else operand for operand in operands]
        if any(isinstance(value, (torch.Tensor, fx.Proxy)) for value in values):
            return NotImplemented
        if any(isinstance(value, (str, bytes, list, tuple)) for value in values):  # which is repeated
            values = [operand.fixed("to repeat") if type(operand) is TracedNumber else operand for operand in operands]
            return operation(*values)
        dynamic = any(map(is_dynamic, values))
        if dynamic and operation in _ON_FIXED:
            values = [
                operand.fixed(operation.__name__) if type(operand) is TracedNumber else operand for operand in operands
            ]
        if dynamic and operation in _COMPARISONS:
            self.tracer.locate()
        try:
            result = computed(operation, *values)
        except UnknownSizeError as error:
            raise needs_data(error) from error
        except (OverflowError, TypeError) as error:
            if not dynamic:
                raise
            if isinstance(error, UnevenRoundingError):
                text = TracedNumber(self.tracer, None, operation, operands).text()
                raise ShapeError(f"{text}: {error}", remedy=_ROUND_ELSEWHERE, wants_fixed_size=True) from error
            raise self._undefined(operation, operands) from error
        return NotImplemented if result is NotImplemented else TracedNumber(self.tracer, result, operation, operands)

    def _undefined(self, operation: Callable[..., Any], operands: tuple[Any, ...]) -> CaptureError:
        text = TracedNumber(self.tracer, None, operation, operands).text()
        return CaptureError(
            f"{text} is not known, for {self.text()} is the dynamic size {self.value}",
            remedy="give a fixed size for that dimension, or compute with tensor operations",
        )

    def fixed(self, use: str) -> Any:
        """The number itself, recording that it was baked in. Raises ShapeError for a dynamic one."""
        if self.is_dynamic:
            self._refuse_of_data(use)
            names = ", ".join(self.value.symbols())
            raise ShapeError(
                f"{self.text()} is the dynamic size {self.value}, but the forward needs a fixed number there ({use})",
                remedy=f"give a fixed size for {names}, or compute with tensor operations",
                wants_fixed_size=True,
            )
        self.tracer.record_guard(f"{self.text()} == {self.value}")
        return self.value

    def _refuse_of_data(self, use: str) -> None:
        """Raises NeedsDataError where the number comes from data, so that no size could be fixed for it."""
        unknown = self.tracer.program.log.unknown
        said = [str(unknown[name]) for name in (self.value.symbols() if self.is_dynamic else ()) if name in unknown]
        if said:
            need = f"the forward needs {self.text()} as a fixed number ({use})"
            raise NeedsDataError(
                f"{need}, which depends on the data: {'; '.join(said)}", remedy="compute with tensor operations"
            )

    def __index__(self) -> int:
        return int(self.fixed("as an index or a length"))

    def __int__(self) -> int:
        if self.is_dynamic:
            self.tracer.miss(sys._getframe(1))
        return int(self.fixed("int()"))

    def __float__(self) -> float:
        if self.is_dynamic:
            self.tracer.miss(sys._getframe(1))
        return float(self.fixed("float()"))

    def __bool__(self) -> bool:
        if self.is_dynamic:
            self.tracer.locate()
            try:
                return bool(self.value)
            except UnknownSizeError as error:
                raise needs_data(error) from error
        answer = bool(self.value)
        if self._operation is not None and not self._is_of_named_sizes():
            self.tracer.record_guard(self.text() if answer else f"not ({self.text()})")
        return answer

    def _is_of_named_sizes(self) -> bool:
        """Whether it was decided of named sizes: what had to be assumed for that is a guard already."""
        numbers = [operand for operand in self._operands if type(operand) is TracedNumber]
        return self.is_dynamic or any(number._is_of_named_sizes() for number in numbers)

    def __hash__(self) -> int:
        if self.is_dynamic:  # what is kept under such a key, as in a cache, would outlive the trace
            self._refuse_of_data("as a key")
            raise TypeError(f"unhashable type: {self.text()} is the dynamic size {self.value}")
        return hash(self.pin())

    def __repr__(self) -> str:
        return repr(self.pin())

    def __str__(self) -> str:
        return str(self.pin())

    def __format__(self, spec: str) -> str:
        return format(self.pin(), spec)

    def __getattr__(self, name: str) -> Any:
        if not hasattr(self.kind, name):
            raise AttributeError(f"{self.kind.__name__!r} object has no attribute {name!r}")
        return getattr(self.fixed(name), name)

    def pin(self) -> Any:
        """The number as text or as a key, which is right for this size alone: recorded as a guard.

        What only tells something (a message, a line of a log) decides nothing.
        """
        number = self.value.hint if self.is_dynamic else self.value
        if self.tracer.recording and not only_tells(sys._getframe(2)):
            self._refuse_of_data("as a text")
            self.tracer.locate()
            if isinstance(self.value, Floating):
                assert all(size == size.hint for size in self.value.sizes())
            elif self.is_dynamic:
                assert self.value == number
            elif self._operation is not None:
                self.tracer.record_guard(f"{self.text()} == {number}")
        return number

    def __ceil__(self) -> Any:
        return self.combined(math.ceil, self)

    def __floor__(self) -> Any:
        return self.combined(math.floor, self)

    def __trunc__(self) -> Any:
        return self.combined(math.trunc, self)

    def __round__(self, digits: int | None = None) -> Any:
        return self.combined(round, self) if digits is None else self.combined(round, self, digits)

    def __pow__(self, exponent: Any, modulus: Any = None) -> Any:
        power = self.combined(operator.pow, self, exponent)
        return power if modulus is None else power % modulus

    def __array_ufunc__(self, function: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """NumPy's arithmetic with a size is Python's; anything else of NumPy's takes the number itself."""
        operation = _OF_NUMPY.get(function) or _WHOLE_OF_NUMPY.get(function)
        if operation is not None and method == "__call__" and not kwargs:  # noqa: SIM102
            if all(_is_scalar_of_numpy(operand) for operand in inputs if isinstance(operand, np.ndarray)):
                found = self.combined(operation, *inputs)
                return found if function in _OF_NUMPY or found is NotImplemented else found.combined(float, found)
        numbers = [value.fixed(function.__name__) if type(value) is TracedNumber else value for value in inputs]
        return getattr(function, method)(*numbers, **kwargs)

    def __neg__(self) -> Any:
        return self.combined(operator.neg, self)

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> Any:
        return other // self, other % self

    def __invert__(self) -> Any:
        return -self - 1

    def __pos__(self) -> Any:
        return self

    def __abs__(self) -> Any:
        return self.combined(abs, self)


def _argument(operand: Any) -> Any:
    if type(operand) is TracedNumber:
        return operand.as_argument()
    return operand.node if isinstance(operand, fx.Proxy) else operand


def _is_scalar_of_numpy(value: Any) -> bool:
    return isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0)


def _binary(operation: Callable[..., Any]) -> Callable[[TracedNumber, Any], Any]:
    def forward(self: TracedNumber, other: Any) -> Any:
        return self.combined(operation, self, other)

    return forward


def _reflected(operation: Callable[..., Any]) -> Callable[[TracedNumber, Any], Any]:
    def backward(self: TracedNumber, other: Any) -> Any:
        return self.combined(operation, other, self)

    return backward


for _operation in _SYMBOLS:
    _name = _operation.__name__.rstrip("_")
    if _operation is not operator.pow:  # which takes a modulus, too
        setattr(TracedNumber, f"__{_name}__", _binary(_operation))
    if _operation not in _COMPARISONS:
        setattr(TracedNumber, f"__r{_name}__", _reflected(_operation))


class TracedShape(tuple):  # type: ignore[type-arg]
    """A traced tensor's shape: a tuple of numbers with what torch.Size has beyond a tuple."""

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return TracedShape(found) if isinstance(index, slice) else found

    def __add__(self, other: Any) -> TracedShape:
        return TracedShape(super().__add__(tuple(other)))

    def __radd__(self, other: Any) -> TracedShape:
        return TracedShape((*other, *self))

    def __repr__(self) -> str:
        return f"torch.Size([{', '.join(map(repr, self))}])"

    def numel(self) -> Any:
        total: Any = 1
        for size in self:
            total = total * size
        return total
