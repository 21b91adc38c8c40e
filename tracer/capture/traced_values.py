"""What stands for a value while a forward is traced, and answers questions about its shape.

`TracedTensor` stands for a tensor (or whatever a graph node produces); operations on it become graph nodes.
`TracedNumber` stands for a number that came from a shape. Fixed numbers never enter the graph: they are
passed on as literals. Numbers over a dynamic dimension become graph nodes when an operation needs them.
A question that decides something (a branch, a length, a loop) is answered and recorded as a guard.
"""

from __future__ import annotations

import builtins
import math
import operator
import sys
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from passes.errors import CaptureError, ShapeError
from passes.ops.assignment import with_item
from passes.ops.op import METHODS, is_inplace
from passes.sizes.dimension import Dim, product
from passes.sizes.ratio import Ratio
from passes.values.nested import fields_of, is_dataclass_value, leaves
from passes.values.spec import TensorSpec
from tracer.edge.source_lines import is_user_code, only_tells
from tracer.memory.real_tensors import FollowingReal, with_written, written_place
from tracer.memory.recorder import Recorder
from tracer.memory.writing_functions import spelled_out

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
_ON_FIXED = frozenset({operator.and_, operator.or_, operator.xor, operator.lshift, operator.rshift})
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
}
_COMPARISONS = frozenset({operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge})


class TracedNumber:
    """An int, float or bool that came from a shape: its value now, and how it was computed.

    `value` is a number, or a `Dim` where it depends on a dynamic dimension.
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
        if self.is_dynamic:
            return int if isinstance(self.value, Dim) else float
        return builtins.type(self.value)

    @property
    def is_dynamic(self) -> bool:
        return isinstance(self.value, (Dim, Ratio))

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

    def _combine(self, operation: Callable[..., Any], *operands: Any) -> Any:
        operands = tuple(operand.item() if _is_scalar_of_numpy(operand) else operand for operand in operands)
        values = [operand.value if type(operand) is TracedNumber else operand for operand in operands]
        if any(isinstance(value, (torch.Tensor, fx.Proxy)) for value in values):
            return NotImplemented
        if any(isinstance(value, (str, bytes, list, tuple)) for value in values):  # which is repeated
            values = [operand.fixed("to repeat") if type(operand) is TracedNumber else operand for operand in operands]
            return operation(*values)
        dynamic = any(isinstance(value, (Dim, Ratio)) for value in values)
        if dynamic and operation in _ON_FIXED:
            values = [
                operand.fixed(operation.__name__) if type(operand) is TracedNumber else operand for operand in operands
            ]
        if dynamic and operation in _COMPARISONS:
            self.tracer.locate()
        try:
            result = operation(*values)
        except (OverflowError, TypeError) as error:
            if not dynamic:
                raise
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
            names = ", ".join(self.value.symbols()) if isinstance(self.value, Dim) else "that dimension"
            raise ShapeError(
                f"{self.text()} is the dynamic size {self.value}, but the forward needs a fixed number there ({use})",
                remedy=f"give a fixed size for {names}, or compute with tensor operations",
                wants_fixed_size=True,
            )
        self.tracer.record_guard(f"{self.text()} == {self.value}")
        return self.value

    def __index__(self) -> int:
        return int(self.fixed("as an index or a length"))

    def __int__(self) -> int:
        return int(self.fixed("int()"))

    def __float__(self) -> float:
        return float(self.fixed("float()"))

    def __bool__(self) -> bool:
        if self.is_dynamic:
            self.tracer.locate()
            return bool(self.value)
        answer = bool(self.value)
        if self._operation is not None:
            self.tracer.record_guard(self.text() if answer else f"not ({self.text()})")
        return answer

    def __hash__(self) -> int:
        if self.is_dynamic:
            raise TypeError(f"unhashable type: {self.text()} is the dynamic size {self.value}")
        self.pin()
        return hash(self.value)

    def __repr__(self) -> str:
        return repr(self.pin())

    def __str__(self) -> str:
        return str(self.pin())

    def __format__(self, spec: str) -> str:
        return format(self.pin(), spec)

    def __getattr__(self, name: str) -> Any:
        if not hasattr(self.__class__, name):
            raise AttributeError(f"{self.__class__.__name__!r} object has no attribute {name!r}")
        return getattr(self.fixed(name), name)

    def pin(self) -> Any:
        """The number as text or as a key, which is right for this size alone: recorded as a guard.

        What only tells something (a message, a line of a log) decides nothing.
        """
        number = self.value.hint if self.is_dynamic else self.value
        if self.tracer.recording and not only_tells(sys._getframe(2)):
            if isinstance(self.value, Ratio):
                self.fixed("as text")
            self.tracer.locate()
            if self.is_dynamic:
                assert self.value == number
            elif self._operation is not None:
                self.tracer.record_guard(f"{self.text()} == {number}")
        return number

    def __ceil__(self) -> Any:
        return self._combine(math.ceil, self)

    def __floor__(self) -> Any:
        return self._combine(math.floor, self)

    def __trunc__(self) -> Any:
        return self._combine(math.trunc, self)

    def __round__(self, digits: int | None = None) -> Any:
        return self._combine(round, self) if digits is None else self._combine(round, self, digits)

    def __pow__(self, exponent: Any, modulus: Any = None) -> Any:
        power = self._combine(operator.pow, self, exponent)
        return power if modulus is None else power % modulus

    def __array_ufunc__(self, function: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """NumPy's arithmetic with a size is Python's; anything else of NumPy's takes the number itself."""
        operation = _OF_NUMPY.get(function)
        if operation is not None and method == "__call__" and not kwargs:  # noqa: SIM102
            if all(_is_scalar_of_numpy(operand) for operand in inputs if isinstance(operand, np.ndarray)):
                return self._combine(operation, *inputs)
        numbers = [value.fixed(function.__name__) if type(value) is TracedNumber else value for value in inputs]
        return getattr(function, method)(*numbers, **kwargs)

    def __neg__(self) -> Any:
        return self._combine(operator.neg, self)

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> Any:
        return other // self, other % self

    def __invert__(self) -> Any:
        return -self - 1

    def __pos__(self) -> Any:
        return self

    def __abs__(self) -> Any:
        return self._combine(abs, self)


def _is_scalar_of_numpy(value: Any) -> bool:
    return isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0)


def _binary(operation: Callable[..., Any]) -> Callable[[TracedNumber, Any], Any]:
    def forward(self: TracedNumber, other: Any) -> Any:
        return self._combine(operation, self, other)

    return forward


def _reflected(operation: Callable[..., Any]) -> Callable[[TracedNumber, Any], Any]:
    def backward(self: TracedNumber, other: Any) -> Any:
        return self._combine(operation, other, self)

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


class TracedTensor(fx.Proxy):
    """A graph node's value while tracing: passes for a tensor (see `tracing_environment`), and knows its shape.

    In-place operations are followed: the tensor then stands for their result.
    """

    tracer: Recorder
    _is_param = False

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copy made in the forward is one of the value."""
        memo[id(self)] = found = self.clone() if issubclass(self.type_for(), torch.Tensor) else self
        return found

    def type_for(self) -> type:
        """The type of what this stands for."""
        if self.tracer.awaited(self.node) is not None:
            return nn.Parameter
        if self.node.op == "get_attr":
            return nn.Parameter if self.is_parameter else torch.Tensor
        value = self.tracer.value(self.node)
        return torch.Tensor if isinstance(value, TensorSpec) else type(value)

    @property
    def is_parameter(self) -> bool:
        if self.node.op != "get_attr":
            return False
        with self.tracer.computing():
            return isinstance(self.tracer.program.tensor(str(self.node.target)), nn.Parameter)

    def __repr__(self) -> str:
        return self._text("{!r}")

    def __str__(self) -> str:
        return self._text("{}")

    def __format__(self, spec: str) -> str:
        return self._text(f"{{:{spec}}}")

    def _text(self, pattern: str) -> str:
        frame = sys._getframe(2)
        if not self.tracer.recording or not is_user_code(frame.f_code) or only_tells(frame):
            return f"{self.node.name} {self.tracer.value(self.node)}"
        try:
            return pattern.format(self.read("text"))
        except CaptureError as error:
            error.caught = True  # no other way of following the forward has the data either
            raise

    def __getattr__(self, name: str) -> Any:
        answer = _ATTRIBUTES.get(name)
        if answer is not None:
            return answer(self)
        value = self.tracer.value(self.node)
        if isinstance(value, TensorSpec):
            if not hasattr(torch.Tensor, name):
                raise AttributeError(f"'Tensor' object has no attribute {name!r}")
            if not callable(getattr(torch.Tensor, name)):
                return self.tracer.create_proxy("call_function", getattr, (self, name), {})
        elif isinstance(value, tuple) and (place := _place_of_field(self.node, name)) is not None:
            return self[place]
        elif not hasattr(value, name):
            raise AttributeError(f"{builtins.type(value).__name__!r} object has no attribute {name!r}")
        if is_inplace(name):
            return partial(self._in_place, name)
        attribute = fx.proxy.Attribute(self, name)
        self.tracer.made.append(weakref.ref(attribute))
        return attribute

    @property
    def data(self) -> TracedTensor:
        found: Any = self.tracer.create_proxy("call_function", getattr, (self, "data"), {})
        view: TracedTensor = found
        return view

    @data.setter
    def data(self, value: Any) -> None:
        other = value if type(value) is TracedTensor else self.tracer.real.traced(value)
        self.tracer.aliases.replace(self, other.data.node)

    def _in_place(self, name: str, *args: Any, **kwargs: Any) -> TracedTensor:
        """An in-place method: a write, or, where it makes a view, from here on another view of the same memory."""
        pure = name[:-1] if name not in METHODS and name[:-1] in METHODS else name
        if name in _VIEWS_IN_PLACE:
            self.tracer.aliases.replace(self, self.tracer.create_proxy("call_method", pure, (self, *args), kwargs).node)
            return self
        if name in _OTHER_MEMORY_IN_PLACE:
            raise CaptureError(
                f"the forward changes what memory {self.node.name} has, by {name}",
                remedy="compute a new tensor in its place",
            )
        return self._become("call_method", pure, (self, *args), kwargs)

    def _become(self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> TracedTensor:
        """Records an in-place operation; from here on this tensor is its result."""
        self.tracer.aliases.write(self, self.tracer.create_proxy(kind, target, args, kwargs).node)
        return self

    # Several tensors ----------------------------------------------------------------------------

    def _member(self, place: Any) -> TracedTensor:
        """One of the several values that this stands for: the same each time it is asked for, as in a tuple."""
        members = self.__dict__.setdefault("_members", {})
        if place not in members:
            whole = fx.Proxy(self.node, self.tracer)  # whatever has become of its members
            members[place] = self.tracer.create_proxy("call_function", operator.getitem, (whole, place), {})
            self.tracer.unpacked.append((self, place))
        found: TracedTensor = members[place]
        return found

    def members(self) -> list[TracedTensor]:
        """Every tensor among the several values that this stands for."""
        found: list[TracedTensor] = []
        value = self.tracer.value(self.node)
        for place in value if isinstance(value, dict) else range(len(value)):
            if isinstance(value[place], TensorSpec):
                found.append(self._member(place))
            elif any(isinstance(leaf, TensorSpec) for leaf in leaves(value[place])):
                found.extend(self._member(place).members())
        return found

    def is_as_it_was(self) -> bool:
        """Whether the node still gives what this stands for: no member of it has been written to."""
        members = self.__dict__.get("_members")
        return not members or all(
            member.node.target is operator.getitem and member.node.args == (self.node, place) and member.is_as_it_was()
            for place, member in members.items()
        )

    def unpacked(self) -> Any:
        """The several values that this stands for, each by itself."""
        value = self.tracer.value(self.node)
        if isinstance(value, dict):
            return {key: self[key] for key in value}
        return tuple(self[place] for place in range(len(value)))

    def forget(self, place: Any) -> None:
        """Forgets a member whose node was erased."""
        self.__dict__["_members"].pop(place, None)

    @property
    def spec(self) -> TensorSpec:
        value = self.tracer.value(self.node)
        if not isinstance(value, TensorSpec):
            raise AttributeError(f"{builtins.type(value).__name__!r} object is no tensor")
        return value

    @property
    def typed(self) -> TensorSpec | torch.Tensor:
        """What has this tensor's dtype and device: also that of a lazy layer which has not been called yet."""
        awaited = self.tracer.awaited(self.node)
        return self.spec if awaited is None else awaited

    def rank(self) -> Any:
        """How many axes the tensor has."""
        known = self.tracer.awaited_rank(self.node)
        return self.number(self.spec.ndim, "dim", self.node) if known is None else known

    def number(self, value: Any, operation: Any, *operands: Any) -> TracedNumber:
        return TracedNumber(self.tracer, value, operation, operands)

    @property
    def shape(self) -> TracedShape:
        return TracedShape(self.number(size, "size", self.node, axis) for axis, size in enumerate(self.spec.shape))

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def numel(self) -> TracedNumber:
        return self.number(product(self.spec.shape), "numel", self.node)

    nelement = numel

    def __len__(self) -> int:
        value = self.tracer.value(self.node)
        if not isinstance(value, TensorSpec):
            return len(value)
        if not value.shape:
            raise TypeError("len() of a 0-d tensor")
        return int(self.shape[0].fixed("len()"))

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self)))

    def __reversed__(self) -> Iterator[Any]:
        return (self[index] for index in reversed(range(len(self))))

    def __getitem__(self, index: Any) -> Any:
        value = self.tracer.value(self.node)
        if isinstance(value, (tuple, list)) and isinstance(index, slice):
            return tuple(self[place] for place in range(len(value))[index])
        if isinstance(value, (tuple, list, dict)):
            item = value[index]
            if isinstance(item, (Dim, Ratio)):
                return self.number(item, operator.getitem, self.node, index)
            if not any(isinstance(leaf, TensorSpec) for leaf in leaves(item)):
                return item
            return self._member(index if isinstance(value, dict) else range(len(value))[index])
        return self.tracer.create_proxy("call_function", operator.getitem, (self, index), {})

    def __contains__(self, item: Any) -> bool:
        return item in self.read("`in`")

    def __bool__(self) -> bool:
        value = self.tracer.value(self.node)
        return bool(self.read("control flow")) if isinstance(value, TensorSpec) else bool(value)

    def __index__(self) -> int:
        return int(self.read("an index"))

    def __int__(self) -> int:
        return int(self.read("int()"))

    def __float__(self) -> float:
        return float(self.read("float()"))

    def item(self) -> Any:
        """The number itself where it is known, else the tensor without axes, which stands for it in arithmetic."""
        return self.reshape(()) if self.tracer.known.tensor(self.node) is None else self.read("item()").item()

    def tolist(self) -> Any:
        return self.read("tolist()").tolist()

    def numpy(self) -> Any:
        return _read_only(self.read("numpy()").clone().numpy())

    def read(self, use: str) -> torch.Tensor:
        """The tensor's data, where it follows from the model's own tensors; recorded as a guard.

        Raises CaptureError where it depends on an input.
        """
        found = self.tracer.known.tensor(self.node)
        if found is None:
            raise self._needs_data(use)
        if found.numel() == 1:
            self.tracer.record_guard(f"{self.node.name} is {found.item()}, from the model's own tensors")
        return found

    def _needs_data(self, use: str) -> CaptureError:
        return CaptureError(
            f"the forward needs the data of {self.node.name} {self.tracer.value(self.node)} for {use}",
            remedy=_REMEDIES.get(use, "compute it with torch's operations, or before the forward"),
        )

    def __setitem__(self, index: Any, value: Any) -> None:
        self._become("call_function", with_item, (self, index, value), {})

    @classmethod
    def __torch_function__(
        cls,
        orig_method: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        args, kwargs = args or (), kwargs or {}
        tracer: Recorder = _first_traced((args, kwargs)).tracer
        question = _QUESTIONS.get(orig_method)
        if question is not None and type(args[0]) is TracedTensor:
            return question(*args, **kwargs)
        if isinstance(orig_method, torch._ops.OpOverload):
            orig_method = orig_method.overloadpacket
        spelled = spelled_out(orig_method, args, kwargs)
        if spelled is not None:
            with FollowingReal(tracer, cls.__torch_function__):
                return spelled()
        place = written_place(orig_method, args, kwargs)
        if place is not None:
            args, kwargs = with_written(tracer, place, args, kwargs)
        name = orig_method.__name__
        if name in ("__get__", "__set__") or torch.overrides.is_tensor_method_or_property(orig_method):
            return _call_method(tracer, orig_method, args, kwargs)
        if place is None:
            return tracer.create_proxy("call_function", orig_method, args, kwargs)
        written = args[place] if isinstance(place, int) else kwargs[place]
        kwargs = {key: value for key, value in kwargs.items() if key != "out"}
        result = tracer.create_proxy("call_function", orig_method, args, kwargs)
        if type(written) is TracedTensor:
            tracer.aliases.write(written, result.node, resizes=place == "out")
        elif place == "out" and isinstance(written, (tuple, list)):
            found: Any = result
            for index, target in enumerate(written):
                tracer.aliases.write(target, found[index].node, resizes=True)
        else:
            raise CaptureError(f"the forward writes in place by {name}", remedy="write to each tensor by itself")
        return written


def _inplace_operator(operation: Callable[..., Any]) -> Callable[[TracedTensor, Any], TracedTensor]:
    def apply(self: TracedTensor, other: Any) -> TracedTensor:
        return self._become("call_function", operation, (self, other), {})

    return apply


for _operation in (
    operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, operator.pow,
    operator.and_, operator.or_, operator.xor, operator.lshift, operator.rshift,
):  # fmt: skip
    setattr(TracedTensor, f"__i{_operation.__name__.rstrip('_')}__", _inplace_operator(_operation))


def _argument(operand: Any) -> Any:
    if type(operand) is TracedNumber:
        return operand.as_argument()
    return operand.node if isinstance(operand, fx.Proxy) else operand


def _call_method(tracer: Recorder, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A method or property that is spelled as a function of the tensor: `torch.Tensor.add_(x, 1)`."""
    name = method.__name__
    if type(args[0]) is not TracedTensor:
        return tracer.create_proxy("call_method", name, args, kwargs)
    if name in ("__get__", "__set__"):
        asked = method.__self__.__name__
        return getattr(args[0], asked) if name == "__get__" else setattr(args[0], asked, args[1])
    return getattr(args[0], name)(*args[1:], **kwargs)


def _place_of_field(node: fx.Node, name: str) -> int | None:
    """Where a named field of torch's results is (`x.max(dim).values`), which rules give as plain tuples."""
    if name in _RESULT_FIELDS:
        return _RESULT_FIELDS[name]
    operation = getattr(node.target, "__name__", str(node.target))
    for kind in (operation, f"linalg_{operation.removeprefix('linalg_')}"):
        fields = getattr(getattr(torch.return_types, kind, None), "__match_args__", ())
        if name in fields:
            return int(fields.index(name))
    return None


def has_traced(value: Any) -> bool:
    """Whether a traced tensor or number is among the arguments."""
    return _first_traced(value) is not None


def _first_traced(value: Any) -> Any:
    """The first traced thing among the arguments. One that stands for a tuple is not asked for its items."""
    kind = type(value)
    if kind in (TracedTensor, TracedNumber, fx.proxy.Attribute):
        return value
    items: Any = ()
    if issubclass(kind, (tuple, list)):
        items = value
    elif issubclass(kind, dict):
        items = value.values()
    elif kind is slice:
        items = (value.start, value.stop, value.step)
    elif is_dataclass_value(value):
        items = fields_of(value).values()
    return next((found for item in items if (found := _first_traced(item)) is not None), None)


def _read_only(array: Any) -> Any:
    """The array, which refuses to be written to: nothing of that would reach the tensor."""
    array.flags.writeable = False
    return array


def _requires_grad(tensor: TracedTensor) -> bool:
    """A parameter's own answer; of what is computed, that of a forward for inference, which records no gradients."""
    if tensor.is_parameter:
        with tensor.tracer.computing():
            return bool(tensor.tracer.program.tensor(str(tensor.node.target)).requires_grad)
    return bool(_without_gradients(tensor, "requires_grad", False))


def _is_leaf(tensor: TracedTensor) -> bool:
    return tensor.is_parameter or bool(_without_gradients(tensor, "is_leaf", True))


def _grad_fn(tensor: TracedTensor) -> None:
    _without_gradients(tensor, "grad_fn", None)


def _without_gradients(tensor: TracedTensor, question: str, answer: Any) -> Any:
    """The answer where no gradients are recorded; a guard, where what was computed would have another with them."""
    if tensor.node.op not in ("placeholder", "get_attr"):
        if torch.is_grad_enabled():
            raise CaptureError(
                f"the forward turns gradients on and asks for {tensor.node.name}.{question}",
                remedy="leave gradients to the caller: an exported model has none",
            )
        tensor.tracer.record_guard(f"{tensor.node.name}.{question} is {answer}, without gradients")
    return answer


# What to do in place of a question about a tensor's data.
_REMEDIES = {"control flow": "choose with torch.where instead of if, or give the choice to the model as an argument"}

# In-place methods that make another view of the tensor of it, and write nothing.
_VIEWS_IN_PLACE = frozenset({"t_", "squeeze_", "unsqueeze_", "transpose_", "swapaxes_", "swapdims_", "detach_"})
_OTHER_MEMORY_IN_PLACE = frozenset({"resize_", "resize_as_", "set_", "as_strided_", "swap_"})

# The fields of most of torch's named results.
_RESULT_FIELDS = {"values": 0, "indices": 1}

# Answers that need no graph node: attributes, and methods and functions about a tensor's type.
_ATTRIBUTES: dict[str, Callable[[TracedTensor], Any]] = {
    "dtype": lambda t: t.typed.dtype,
    "device": lambda t: t.typed.device,
    "ndim": lambda t: t.rank(),
    "layout": lambda t: torch.strided,
    "is_cuda": lambda t: t.typed.device.type == "cuda",
    "is_cpu": lambda t: t.typed.device.type == "cpu",
    "is_meta": lambda t: False,
    "is_mps": lambda t: False,
    "is_sparse": lambda t: False,
    "is_quantized": lambda t: False,
    "is_nested": lambda t: False,
    "requires_grad": lambda t: _requires_grad(t),
    "is_leaf": lambda t: _is_leaf(t),
    "grad": lambda t: None,
    "grad_fn": lambda t: _grad_fn(t),
    "dim": lambda t: t.rank,
    "ndimension": lambda t: t.rank,
    "stride": lambda t: lambda dim=None: t.tracer.layouts.stride(t, dim),
    "is_contiguous": lambda t: lambda **given: t.tracer.layouts.is_contiguous(t, **given),
    "storage_offset": lambda t: lambda: t.tracer.layouts.storage_offset(t),
    "is_floating_point": lambda t: lambda: t.typed.dtype.is_floating_point,
    "is_complex": lambda t: lambda: t.typed.dtype.is_complex,
    "element_size": lambda t: lambda: t.typed.dtype.itemsize,
    "get_device": lambda t: lambda: t.typed.device.index if t.typed.device.index is not None else -1,
    "requires_grad_": lambda t: lambda *args: t,
}

_QUESTIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.numel: lambda t: t.numel(),
    torch.is_floating_point: lambda t: t.is_floating_point(),
    torch.is_complex: lambda t: t.is_complex(),
    torch.Tensor.size: lambda t, dim=None: t.size(dim),
    torch.Tensor.dim: lambda t: t.dim(),
}
