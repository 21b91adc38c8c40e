"""What stands for numbers and tensors whose sizes data decides: known is what bounds them, and nothing else is said.

An operation on such a tensor has no shape. So only what knows of them takes them; everything else is refused here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from passes.errors import NeedsDataError
from passes.sizes.dimension import maximum, same_size
from passes.values.nested import leaves
from tracer.capture.values.native_number import SYMBOLIC
from tracer.capture.values.number import TracedNumber, TracedShape
from tracer.memory.recorder import Recorder

_type = type  # Python's own, also while a forward is traced


class _Refusing:
    """Refuses every operator and every question that is not answered."""

    __slots__ = ()

    def refuse(self, use: str) -> NoReturn:
        raise NotImplementedError


def _refusing(name: str) -> Callable[..., Any]:
    return lambda self, *operands: self.refuse(name)


for _name in (
    *("len", "iter", "int", "float", "index", "setitem", "contains", "neg", "invert", "abs", "pos", "round"),
    *("eq", "ne", "lt", "le", "gt", "ge", "bool", "divmod", "rdivmod"),
    *(
        f"{side}{operation}"
        for side in ("", "r", "i")
        for operation in (
            *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"),
            *("and", "or", "xor", "lshift", "rshift"),
        )
    ),
):
    setattr(_Refusing, f"__{_name}__", _refusing(_name))


class Count(_Refusing):
    """A number that data decides, at least `least` and at most `most`. Comparisons that this answers are all it takes.

    `what` it counts is said where more is asked, and the `remedy`.
    """

    __slots__ = ("_least", "_most", "_remedy", "_what")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, what: str, least: Any, most: Any, remedy: str):
        self._what = what
        self._least = _value(least)
        self._most = _value(most)
        self._remedy = remedy

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """What torch's native code takes this for, so that it hands its calls over."""
        return SYMBOLIC[int]

    @property
    def node(self) -> NoReturn:
        """What torch's native code asks where it does not."""
        self.refuse("in native code")

    def refuse(self, use: str) -> NoReturn:
        raise NeedsDataError(f"the forward asks for {self._what} ({use}), which data decides", remedy=self._remedy)

    def __gt__(self, other: Any) -> bool:
        other = _value(other)
        if _is_at_least(other, self._most):
            return False
        return _is_at_least(self._least, other + 1) or self.refuse(f"whether it is greater than {other}")

    def __lt__(self, other: Any) -> bool:
        other = _value(other)
        if _is_at_least(self._least, other):
            return False
        return _is_at_least(other, self._most + 1) or self.refuse(f"whether it is less than {other}")

    def __le__(self, other: Any) -> bool:
        return not self > other

    def __ge__(self, other: Any) -> bool:
        return not self < other


def _value(number: Any) -> Any:
    return number.value if _type(number) is TracedNumber else number


def _is_at_least(size: Any, other: Any) -> bool:
    """Whether one size is known to be at least another one; asks for no guard."""
    return same_size(maximum(size, other), size)


class Uncounted(_Refusing):
    """A tensor the first of whose sizes is a `Count`.

    `traced` is what it is in the graph, `what` it is called. The elements that are known, by their place, are numbers.
    """

    __hash__ = object.__hash__

    def __init__(self, traced: Any, rows: Count, what: str, remedy: str, known: Mapping[int, Any] | None = None):
        self.traced = traced
        self.rows = rows
        self.what = what
        self._remedy = remedy
        self._known = known or {}

    @property
    def tracer(self) -> Recorder:
        found: Recorder = self.traced.tracer
        return found

    def refuse(self, use: str) -> NoReturn:
        raise NeedsDataError(f"the forward uses {self.what} ({use}), whose size data decides", remedy=self._remedy)

    def __getattr__(self, name: str) -> Any:
        if name in _ANSWERS:
            return getattr(self.traced, name)
        if name.startswith("__"):
            raise AttributeError(name)
        return self.refuse(name)

    @property
    def shape(self) -> TracedShape:
        return TracedShape((self.rows, *self.traced.shape[1:]))

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def __getitem__(self, index: Any) -> Any:
        if _type(index) is int and index in self._known:
            return self._known[index]
        return self.refuse("its elements")

    def replaced(self, traced: Any) -> Uncounted:
        """Another tensor of as many rows, which is called the same."""
        return Uncounted(traced, self.rows, self.what, self._remedy)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """A function of torch's that is called on such tensors, and knows nothing of them."""
        first = next(leaf for leaf in leaves((args, kwargs or {})) if _type(leaf) is cls)
        first.refuse(getattr(function, "__name__", str(function)))


# What is asked of a tensor without its sizes.
_ANSWERS = frozenset({
    "dtype", "device", "ndim", "dim", "layout", "requires_grad", "is_cuda", "is_cpu", "is_meta", "is_mps", "is_sparse",
    "is_quantized", "is_nested", "is_floating_point", "is_complex", "element_size", "get_device",
})  # fmt: skip


def in_graph(value: Any) -> Any:
    """What an `Uncounted` tensor is in the graph; anything else itself. For what knows of such tensors."""
    return value.traced if _type(value) is Uncounted else value


__all__ = ["Count", "Uncounted", "in_graph"]
