"""A number that came from a shape, while a forward is traced.

Fixed numbers never enter the graph: they are passed on as literals. Numbers over a dynamic dimension become graph
nodes when an operation needs them. A question that decides something (a branch) is answered and recorded as a guard. A
comparison of sizes is a question only once its answer is asked for: `torch.cond` takes it as it is, and the file
computes it.
What must have the number itself (`range`, a key, a text, code that is not Python's) gets the sampled one, and the guard
that it is the only one: `itself` is the one place for that.
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

from passes.errors import CaptureError, NeedsDataError
from passes.ops.control_flow import compared
from passes.ops.data_numbers import real_number, whole_number
from passes.program.unknown_sizes import needs_data
from passes.sizes.dimension import Dim, is_open
from passes.sizes.guards import Location
from passes.sizes.unknown import UnknownSizeError
from passes.values.numbers import computed, is_dynamic
from tracer.capture.values.native_number import SYMBOLIC, FixedNode, check_seen
from tracer.edge.source_lines import only_tells
from tracer.memory.recorder import Recorder

# How a tensor is asked for a number of its own, by the method that gives it.
_ASKED = {"dim": "ndim", "numel": "numel()"}
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
_REPEATED = (str, bytes, list, tuple)
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
_COMPARISONS = frozenset({operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge})


class TracedNumber:
    """An int, float or bool that came from a shape: its value now, and how it was computed.

    `value` is a number, or a `Dim` or `Floating` where it depends on a dynamic dimension.
    """

    __slots__ = ("__weakref__", "_node", "_operands", "_operation", "_value", "tracer")

    def __init__(self, tracer: Recorder, value: Any, operation: Any, operands: tuple[Any, ...]):
        self.tracer = tracer
        self._value = value
        self._operation = operation
        self._operands = operands
        self._node: fx.Node | None = None
        tracer.made.append(weakref.ref(self))

    @classmethod
    def of(cls, tracer: Recorder, node: fx.Node) -> TracedNumber:
        """The number that a node gives."""
        number = cls(tracer, tracer.value(node), node.target, node.args)
        number._node = node
        return number

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """What torch's native code takes this for."""
        return SYMBOLIC.get(self.kind, self.kind)

    @property
    def value(self) -> Any:
        if isinstance(self._value, Location):  # a comparison that was made there, and is decided now
            self.tracer.locate(self._value)
            try:
                self._value = computed(self._operation, *map(_value, self._operands))
            except UnknownSizeError as error:
                raise needs_data(error) from error
        return self._value

    @property
    def is_open(self) -> bool:
        """Whether this is a comparison of sizes whose answer would have to be assumed."""
        return isinstance(self._value, Location) and is_open(self._operation, *map(_value, self._operands))

    def as_tensor(self) -> Any:
        """A comparison of sizes as a tensor, which says at run time whether it holds."""
        arguments = (_SYMBOLS[self._operation], *map(_argument, self._operands))
        return self.tracer.create_proxy("call_function", compared, arguments, {})

    @property
    def kind(self) -> type:
        """The type of the number that this stands for."""
        if isinstance(self._value, Location):
            return bool
        if self.is_dynamic:
            return int if isinstance(self.value, Dim) else float
        return builtins.type(self.value)

    @property
    def node(self) -> FixedNode:
        """What torch's native code asks where it hands no call over. Raises CaptureError for a dynamic number."""
        check_seen()
        if self.is_dynamic:
            raise CaptureError(
                f"{self.text()} is the dynamic size {self.value}, and native code of torch's needs a number there",
                remedy="give a fixed size, or call torch's function that takes sizes: torch.empty(n, 3), not "
                "torch.Tensor(n, 3)",
            )
        return FixedNode(self.itself())

    @property
    def is_dynamic(self) -> bool:
        return is_dynamic(self._value)

    def found_by(self, node: fx.Node) -> None:
        """Says which node gives the number, where there is one already."""
        self._node = node

    def as_argument(self) -> Any:
        """What a graph node takes in this number's place: a literal, or the node that computes it."""
        if not self.is_dynamic:
            return self.value
        if self._node is None or not self.tracer.regions.sees(self._node):
            arguments = tuple(_argument(operand) for operand in self._operands)
            kind = "call_method" if isinstance(self._operation, str) else "call_function"
            self._node = self.tracer.create_node(kind, self._operation, arguments, {})
        return self._node

    def text(self) -> str:
        """The number as an expression over the traced tensors: `x.shape[1] % 2`."""
        if isinstance(self._operation, str):
            asked = f"shape[{self._operands[1]}]" if len(self._operands) == 2 else _ASKED[self._operation]
            return f"{self._operand_text(0)}.{asked}"
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
        values = list(map(_value, operands))
        if any(isinstance(value, (torch.Tensor, fx.Proxy)) for value in values):
            return NotImplemented
        if operation is operator.mul and any(isinstance(value, _REPEATED) for value in values):
            return operation(*map(itself, operands))
        dynamic = any(map(is_dynamic, values))
        if dynamic and operation in _COMPARISONS:
            if all(isinstance(value, (int, Dim)) for value in values):
                return TracedNumber(self.tracer, self.tracer.here(), operation, operands)
            self.tracer.locate()
        try:
            result = computed(operation, *values)
        except UnknownSizeError as error:
            raise needs_data(error) from error
        except (OverflowError, TypeError):
            if not dynamic:
                raise
            result = operation(*map(itself, operands))  # it has no formula
        return NotImplemented if result is NotImplemented else TracedNumber(self.tracer, result, operation, operands)

    def itself(self) -> Any:
        """The number, for what must know it: Python's own loops, keys and texts, and code that is not Python's.

        The forward is followed for this number alone from here on, which is recorded as a guard.
        """
        if self.is_dynamic and self.tracer.recording:
            self._refuse_of_data(f"the forward needs {self.text()} as a fixed number")
            if not only_tells(sys._getframe(1), in_numbers=True):
                self.tracer.locate()
                self.value.pin()
        elif not self.is_dynamic and not self._is_of_named_sizes():
            self.tracer.record_guard(f"{self.text()} == {self.value}")
        return self.now()

    def now(self) -> Any:
        """The number at the sampled sizes."""
        return self.value.hint if self.is_dynamic else self.value

    def _told(self) -> Any:
        """The number for a text. One that only tells something (a message, a line of a log) decides nothing."""
        return self.now() if not self.tracer.recording or only_tells(sys._getframe(1)) else self.itself()

    def is_known(self) -> bool:
        """Whether there is one number only that this stands for."""
        return not self.is_dynamic or self.value.is_pinned()

    def _refuse_of_data(self, use: str) -> None:
        """Raises NeedsDataError where the number comes from data, so that no size could be fixed for it."""
        unknown = self.tracer.program.log.unknown
        said = [str(unknown[name]) for name in (self.value.symbols() if self.is_dynamic else ()) if name in unknown]
        if said:
            raise NeedsDataError(
                f"{use}, which depends on the data: {'; '.join(said)}",
                remedy="repeat with torch.while_loop what is done so often, and compute with torch's operations in all "
                "else",
            )

    def __index__(self) -> int:
        return int(self.itself())

    def __int__(self) -> int:
        if self.is_dynamic:
            self.tracer.miss(sys._getframe(1))
        return int(self.itself())

    def __float__(self) -> float:
        if self.is_dynamic:
            self.tracer.miss(sys._getframe(1))
        return float(self.itself())

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
        if self.is_dynamic:
            self.tracer.miss(sys._getframe(1))
        return hash(self.itself())

    def __repr__(self) -> str:
        return repr(self._told())

    def __str__(self) -> str:
        return str(self._told())

    def __format__(self, spec: str) -> str:
        return format(self._told(), spec)

    def __getattr__(self, name: str) -> Any:
        if not hasattr(self.kind(), name):
            raise AttributeError(f"{self.kind.__name__!r} object has no attribute {name!r}")
        return getattr(self.itself(), name)

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
        return getattr(function, method)(*map(itself, inputs), **kwargs)

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


def _value(operand: Any) -> Any:
    return operand.value if type(operand) is TracedNumber else operand


def _argument(operand: Any) -> Any:
    if type(operand) is TracedNumber:
        return operand.as_argument()
    return operand.node if isinstance(operand, fx.Proxy) else operand


def itself(operand: Any) -> Any:
    """The number in the place of a traced one; anything else as it is."""
    return operand.itself() if type(operand) is TracedNumber else operand


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
