"""The text of arguments and of propagated values, written and read.

%conv                        a node
1  -2.5  inf  True  None  ...  "text"  torch.float32  torch.device("cpu")  slice(0, 2, None)
(1, %a)  (1,)  [1, 2]  {"key": %a}  net.Pair(left=%a, right=2)  torch.Size([2, 3])
float32[N, 3, H//4]  int64[2] on cuda:0  float32[10, 4] of rows N
H//4 + 1  (H + 1) / 2        a size, a fraction of sizes
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from passes.sizes.dimension import Dim, Size
from passes.sizes.floating import Floating
from passes.sizes.formulas.formula import Formula
from passes.sizes.formulas.real import Real
from passes.sizes.guards import GuardLog
from passes.text.formulas import read_formula, read_number
from passes.text.qualified_names import find, qualified_name
from passes.text.scanner import MalformedTextError, Scanner, name_text, quoted
from passes.values.nested import opened
from passes.values.numbers import floating_of
from passes.values.spec import CPU, PackedSpec, TensorSpec, device_of

_LITERALS: dict[str, Any] = {
    "None": None,
    "True": True,
    "False": False,
    "...": ...,
    "inf": math.inf,
    "-inf": -math.inf,
    "nan": math.nan,
}
_LITERAL = re.compile(r"(?:(?:None|True|False|-?inf|nan)(?!\w)|\.\.\.)(?![.(\[])")
_NUMBER = r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?!\w)"
_DEVICE = r"[a-z]+(?::\d+)?"
_MORE = re.compile(r"[\w.(\[{\"]")  # directly behind a word, it makes of it another one

# What is written as a call; named tuples are, too.
_CALLS: dict[str, Callable[..., Any]] = {
    "slice": slice,
    "range": range,
    "complex": complex,
    "torch.device": torch.device,
    "torch.Size": torch.Size,
}


# Writing ------------------------------------------------------------------------------------------


def value_text(value: Any) -> str:
    """The text of a value. One of a type that text does not carry is written as `<its type>`, which is not read."""
    kind = type(value)
    if kind is fx.Node:
        return f"%{value.name}"
    if value is None or value is ... or kind in (bool, int, float):
        return "..." if value is ... else repr(value)
    if kind is str:
        return quoted(value)
    if kind in (TensorSpec, PackedSpec):
        return _spec_text(value)
    if kind is Dim:
        return _size_text(value)
    if kind is Floating:
        return _size_text(value)
    if kind in (torch.Size, slice, range, complex, torch.device):
        return _call_text(value)
    if isinstance(value, tuple):
        if hasattr(value, "_fields"):
            fields = zip(value._fields, value, strict=True)
            return f"{kind.__module__}.{kind.__qualname__}({arguments_text((), dict(fields))})"
        return f"({', '.join(map(value_text, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, list):
        return f"[{', '.join(map(value_text, value))}]"
    parts = opened(value)
    value = value if parts is None else parts
    if isinstance(value, dict):
        return f"{{{', '.join(f'{value_text(key)}: {value_text(item)}' for key, item in value.items())}}}"
    return qualified_name(value) or f"<{name_text(kind.__name__)}>"


def arguments_text(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """What stands between the parentheses of a call."""
    named = [f"{name_text(name)}={value_text(value)}" for name, value in kwargs.items()]
    return ", ".join([*map(value_text, args), *named])


def _spec_text(spec: TensorSpec) -> str:
    place = "" if spec.device == CPU else f" on {spec.device}"
    rows = f" of rows {_size_text(spec.rows)}" if isinstance(spec, PackedSpec) else ""
    return f"{spec}{place}{rows}"


def _size_text(size: Size | Floating) -> str:
    """A size; in parentheses where it begins with a name that is a literal elsewhere."""
    text = str(size)
    return f"({text})" if _LITERAL.match(text) else text


def _call_text(value: Any) -> str:
    if type(value) is torch.Size:
        return f"torch.Size({value_text(list(value))})"
    if type(value) is torch.device:
        return f"torch.device({quoted(str(value))})"
    if type(value) is complex:
        return f"complex({value.real!r}, {value.imag!r})"
    return f"{type(value).__name__}({arguments_text((value.start, value.stop, value.step), {})})"


# Reading ------------------------------------------------------------------------------------------


class ValueReader:
    """Reads values of nodes that are known by now, and of the sizes that a log samples."""

    def __init__(self, log: GuardLog):
        self.log = log
        self.nodes: dict[str, fx.Node] = {}

    def value(self, scanner: Scanner) -> Any:
        """The value that comes next. Raises MalformedTextError."""
        ahead = scanner.rest()
        if ahead.startswith("%"):
            return self.node(scanner)
        if ahead.startswith('"'):
            return scanner.string()
        if ahead.startswith("["):
            return self._items(scanner, "[", "]")
        if ahead.startswith("{"):
            return self._dict(scanner)
        literal = scanner.match(_LITERAL.pattern)
        if literal is not None:
            return _LITERALS[literal]
        size = scanner.attempt(lambda: self._size(scanner))
        if size is not None:
            return size
        if ahead.startswith("("):
            return tuple(self._items(scanner, "(", ")"))
        number = scanner.match(_NUMBER)
        if number is not None:
            return float(number)
        return self._of_name(scanner)

    def node(self, scanner: Scanner) -> fx.Node:
        """The node that is named next. Raises MalformedTextError."""
        start = scanner.fault("").column
        name = scanner.take(r"%\w+", "a node")[1:]
        if name not in self.nodes:
            raise MalformedTextError("a node of a line above", start)
        return self.nodes[name]

    def arguments(self, scanner: Scanner) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call, parentheses included. Raises MalformedTextError."""
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        scanner.expect("(")
        while not scanner.found(")"):
            if args or kwargs:
                scanner.expect(",")
            keyword = scanner.attempt(lambda: self._keyword(scanner))
            if keyword is not None:
                kwargs[keyword] = self.value(scanner)
            elif kwargs:
                raise scanner.fault("a named argument")
            else:
                args.append(self.value(scanner))
        return tuple(args), kwargs

    def shape(self, scanner: Scanner) -> tuple[Size, ...]:
        """A shape in its brackets. Raises MalformedTextError."""
        sizes: list[Size] = []
        scanner.expect("[")
        while not scanner.found("]"):
            if sizes:
                scanner.expect(",")
            sizes.append(self._whole(scanner))
        return tuple(sizes)

    def _whole(self, scanner: Scanner) -> Size:
        formula = read_formula(scanner, self.log.sampled)
        return formula if isinstance(formula, int) else Dim(formula, self.log)

    def _keyword(self, scanner: Scanner) -> str:
        name = scanner.name("a name")
        scanner.expect("=")
        return name

    def _size(self, scanner: Scanner) -> Any:
        """A formula, or a float over sizes; what only begins like one is none."""
        size = read_number(scanner, self.log.sampled)
        if isinstance(size, float) or _MORE.match(scanner.line, scanner.position):
            raise scanner.fault("the end of a size")
        if isinstance(size, Real):
            if not size.symbols():
                raise scanner.fault("a float over sizes")
            return floating_of(size, self.log)
        return Dim(size, self.log) if isinstance(size, Formula) else size

    def _items(self, scanner: Scanner, opening: str, closing: str) -> list[Any]:
        items: list[Any] = []
        scanner.expect(opening)
        while not scanner.found(closing):
            items.append(self.value(scanner))
            if not scanner.found(","):
                scanner.expect(closing)
                break
        return items

    def _dict(self, scanner: Scanner) -> dict[Any, Any]:
        items: dict[Any, Any] = {}
        scanner.expect("{")
        while not scanner.found("}"):
            if items:
                scanner.expect(",")
            fault = scanner.fault("a key that is hashable")
            key = self.value(scanner)
            scanner.expect(":")
            try:
                items[key] = self.value(scanner)
            except TypeError as error:
                raise fault from error
        return items

    def _of_name(self, scanner: Scanner) -> Any:
        """What begins with a name: a spec, a call, or what has that name in Python."""
        fault = scanner.fault("a value")
        name = scanner.take(r"[^\W\d][\w.]*", "a value")
        ahead = scanner.line[scanner.position : scanner.position + 1]
        if ahead == "[":
            return self._spec(scanner, name, fault)
        if ahead == "(":
            return self._call(scanner, name, fault)
        try:
            return find(name)
        except LookupError as error:
            raise fault from error

    def _spec(self, scanner: Scanner, dtype_name: str, fault: MalformedTextError) -> TensorSpec:
        dtype = getattr(torch, dtype_name, None)
        if not isinstance(dtype, torch.dtype):
            raise fault
        shape = self.shape(scanner)
        device = device_of(scanner.take(_DEVICE, "a device")) if scanner.found("on") else CPU
        if not scanner.found("of rows"):
            return TensorSpec(shape, dtype, device)
        return PackedSpec(shape, dtype, device, rows=self._whole(scanner))

    def _call(self, scanner: Scanner, name: str, fault: MalformedTextError) -> Any:
        args, kwargs = self.arguments(scanner)
        try:
            kind = _CALLS.get(name) or _named_tuple(find(name))
            return kind(*args, **kwargs)
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            raise fault from error


def _named_tuple(kind: Any) -> Callable[..., Any]:
    if not (isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")):
        raise TypeError(f"{kind} is no named tuple")
    return kind
