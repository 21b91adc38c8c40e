"""What stands for a tensor while a forward is traced: operations on it become graph nodes, and writes are followed."""

from __future__ import annotations

import builtins
import operator
import sys
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from types import MethodDescriptorType
from typing import Any

import torch
from torch import fx

from passes.errors import CaptureError
from passes.ops.assignment import with_item
from passes.ops.op import METHODS, is_inplace
from passes.ops.packed_sequences import step_counts
from passes.torch_private import OpOverload
from passes.values.nested import leaves, opened
from passes.values.numbers import is_dynamic
from passes.values.spec import TensorSpec
from tracer.capture.values.number import TracedNumber
from tracer.capture.values.packed_sequences import STAND_INS, rows_of
from tracer.capture.values.python_functions import on_numbers
from tracer.capture.values.questions import ATTRIBUTES, FUNCTIONS, AnsweringTensor
from tracer.edge.source_lines import is_user_code, only_tells
from tracer.memory.real_tensors import with_written, written_place
from tracer.memory.recorder import Recorder
from tracer.memory.writing_functions import spelled_out

# In-place methods that make another view of the tensor of it, and write nothing.
_VIEWS_IN_PLACE = frozenset({"t_", "squeeze_", "unsqueeze_", "transpose_", "swapaxes_", "swapdims_", "detach_"})
_OTHER_MEMORY_IN_PLACE = frozenset({"resize_", "resize_as_", "set_", "as_strided_", "swap_"})

# The fields of most of torch's named results.
_RESULT_FIELDS = {"values": 0, "indices": 1}


class TracedTensor(AnsweringTensor):
    """A graph node's value while tracing: passes for a tensor (see `tracing_environment`), and knows its shape.

    In-place operations are followed: the tensor then stands for their result.
    """

    _is_param = False
    __array_priority__ = torch.Tensor.__array_priority__  # numpy's numbers leave it to us what they are times this

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copy made in the forward is one of the value."""
        memo[id(self)] = found = self.clone() if issubclass(self.type_for(), torch.Tensor) else self
        return found

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
        answer = ATTRIBUTES.get(name)
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

    def __setitem__(self, index: Any, value: Any) -> None:
        self._become("call_function", with_item, (self, index, value), {})

    # Several tensors ----------------------------------------------------------------------------

    def _member(self, place: Any) -> TracedTensor:
        """One of the several values that this stands for: the same each time it is asked for, as in a tuple."""
        members = self.__dict__.setdefault("_members", {})
        if place not in members or not self.tracer.regions.sees(members[place].node):
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

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(self._length()))

    def __reversed__(self) -> Iterator[Any]:
        return (self[index] for index in reversed(range(self._length())))

    def _length(self) -> int:
        """How many there are to go over one by one."""
        value = self.tracer.value(self.node)
        return int(self.shape[0].itself()) if isinstance(value, TensorSpec) and value.shape else len(self)

    def __getitem__(self, index: Any) -> Any:
        value = self.tracer.value(self.node)
        if isinstance(value, (tuple, list)) and isinstance(index, slice):
            return tuple(self[place] for place in range(len(value))[index])
        if isinstance(value, (tuple, list, dict)):
            item = value[index]
            if is_dynamic(item):
                return self.number(item, operator.getitem, self.node, index)
            if not any(isinstance(leaf, TensorSpec) for leaf in leaves(item)):
                return item
            return self._member(index if isinstance(value, dict) else range(len(value))[index])
        if self.node.target is step_counts and builtins.type(index) is int and index == 0:
            return rows_of(self.tracer, self)
        return self.tracer.create_proxy("call_function", operator.getitem, (self, index), {})

    # Functions of torch --------------------------------------------------------------------------

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
        question = FUNCTIONS.get(orig_method)
        if question is not None and type(args[0]) is TracedTensor:
            return question(*args, **kwargs)
        stands_in = STAND_INS.get(orig_method)
        if stands_in is not None:
            with tracer.following_real():
                return stands_in(tracer, *args, **kwargs)
        number = on_numbers(orig_method, args, kwargs)
        if number is not None:
            return number
        if isinstance(orig_method, OpOverload):
            orig_method = orig_method.overloadpacket
        spelled = spelled_out(orig_method, args, kwargs)
        if spelled is not None:
            with tracer.following_real():
                return spelled()
        place = written_place(orig_method, args, kwargs)
        if place is not None:
            args, kwargs = with_written(tracer, place, args, kwargs)
        name = orig_method.__name__
        is_method = isinstance(orig_method, MethodDescriptorType)  # torch's own answer leaves some out
        if is_method or name in ("__get__", "__set__") or torch.overrides.is_tensor_method_or_property(orig_method):
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
    elif kind is slice:
        items = (value.start, value.stop, value.step)
    elif (found := opened(value)) is not None:
        items = found.values()
    elif issubclass(kind, dict):
        items = value.values()
    return next((found for item in items if (found := _first_traced(item)) is not None), None)
