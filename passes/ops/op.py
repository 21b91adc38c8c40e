"""One op, one place: its spellings, its shape rule and its lowering.

An op file declares, for each op it covers,

    @dataclass(frozen=True, slots=True)
    class Linear(Record[T]): ...                          # its arguments, by the names and in the order of torch's

    linear = Op("linear", Linear, functions=(F.linear,))

    @linear.module(nn.Linear, nn.LazyLinear)
    def bind_linear(module, input): ...                   # a module call as arguments of that signature

    @linear.shape
    def linear_shape(call: Linear[TensorSpec]): ...       # specs in, spec out

    @linear.lower
    def lower_linear(emit, call: Linear[Value]): ...      # ONNX values in, ONNX values out

    @dropout.identity("dropout_of_none", why="…")         # when its result is its operand: a row of docs/rewrites.md
    def drops_nothing(result: TensorSpec, call: Dropout[TensorSpec]): ...

Every spelling resolves to the same op, and its arguments are bound once to the op's record, which shape rule, identity,
cost and lowering all take. Registering a spelling twice raises.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, TypeVar

import torch
from torch import fx, nn

from passes.errors import CaptureError
from passes.ops.record import CONSTANTS, Owned, Record, is_star, map_leaves
from passes.ops.rewrite import Rewrite, identity_of
from passes.sizes.dimension import Size, known
from passes.torch_private import registered_name
from passes.values.nested import ATOMS, leaves, map_structure

Rule = TypeVar("Rule", bound=Callable[..., Any])
Adapter = Callable[..., Mapping[str, Any]]

# torch spells these parameters in more than one way; the left one is folded into the right one.
PARAMETER_SYNONYMS = {
    "axis": "dim", "axes": "dim", "keepdims": "keepdim", "self": "input", "a": "input", "x": "input",
    "indices": "indices_or_sections", "sections": "indices_or_sections",
}  # fmt: skip

# What a field's type names where it takes a tensor, or may; any other takes numbers, strings and the like.
_OF_TENSORS = re.compile(r"\b(T|Any)\b")

# Arguments that change neither the shape nor what is computed, accepted by every spelling.
WITHOUT_EFFECT = frozenset(
    {"inplace", "memory_format", "non_blocking", "copy", "requires_grad", "pin_memory", "layout", "out"}
)


def tensor_at(module: nn.Module, path: str) -> torch.Tensor | None:
    """A module's parameter or buffer by its path, None where it has none there (`bias=False`)."""
    if "." in path:
        owner, _, path = path.rpartition(".")
        module = module.get_submodule(owner)
    own = module._parameters
    return own[path] if path in own else module._buffers.get(path)


@dataclass(frozen=True, slots=True)
class Inference:
    """What a lazy module's own sizes must be, given its input.

    `attributes` are the module's attributes (`{"in_features": 400}`), `shapes` those of its parameters
    and buffers by name.
    """

    attributes: dict[str, Size]
    shapes: dict[str, tuple[Size, ...]]

    def settled(self) -> Inference:
        """The same with the number for each size that has one value only, whatever its formula."""
        attributes = {name: known(size) for name, size in self.attributes.items()}
        return Inference(attributes, {name: tuple(map(known, shape)) for name, shape in self.shapes.items()})


@dataclass(slots=True)
class BoundCall:
    """A node's arguments, bound to its op's record, in which `fx.Node` and `Owned` stand for values."""

    op: Op
    record: Record[Any]
    module: nn.Module | None = None
    path: str = ""


class Op:
    """One operation of the compiler (see the module's docstring).

    `record` declares its arguments. `functions` and `methods` are spellings that take just these, in the same order
    (a `star` takes sizes either one by one or as one sequence); `library` has those of other libraries by name:
    `torchvision::nms` where they are registered with torch, else `torchvision.ops.boxes.batched_nms`. A spelling with
    other parameters is declared with `function` or `method` and an adapter. `of_numbers` are the arguments that take no
    tensor, `of_either` those that take a size or a tensor, as the record's types have it.
    `view` says that the result may lie in an operand's memory, `container` that it is the operands themselves, `random`
    that computing it may move torch's random state, or with which arguments it may.
    """

    def __init__(
        self,
        name: str,
        record: type[Record[Any]],
        *,
        functions: tuple[Callable[..., Any], ...] = (),
        methods: tuple[str, ...] = (),
        library: tuple[str, ...] = (),
        view: bool = False,
        container: bool = False,
        random: bool | Callable[[Any], bool] = False,
    ):
        self.name = name
        self.record = record
        self.view = view or container
        self.container = container
        self.random = random
        self.shape_rule: Callable[..., Any] | None = None
        self.lowering: Callable[..., Any] | None = None
        self.cost_rule: Callable[..., Size] | None = None
        self.looks_up: tuple[str, Callable[..., Size]] | None = None
        self.inference_rules: dict[type[nn.Module], Callable[..., Inference]] = {}
        self.of_numbers: set[str] = set()
        self.of_either: set[str] = set()
        self._declare(record)
        for target in functions:
            _register(FUNCTIONS, target, (self, None))
        for method in methods:
            _register(METHODS, method, (self, None))
        for qualified in library:
            _register(LIBRARY, qualified, (self, None))

    def __repr__(self) -> str:
        return f"Op({self.name})"

    # Declaring ----------------------------------------------------------------------------------

    def _declare(self, record: type[Record[Any]]) -> None:
        """Reads the signature off the record's fields."""
        self._parameters: tuple[str, ...] = ()
        self._defaults: dict[str, Any] = {}
        self._star: str | None = None
        for field in fields(record):  # type: ignore[arg-type]  # records are dataclasses, their base is none
            if _OF_TENSORS.search(str(field.type)) is None:
                self.of_numbers.add(field.name)
            elif "Size" in str(field.type):
                self.of_either.add(field.name)
            if is_star(field):
                self._star = field.name
            else:
                self._parameters += (field.name,)
                if field.default is not MISSING:
                    self._defaults[field.name] = field.default

    def shape(self, rule: Rule) -> Rule:
        """Declares the shape rule: the record of specs to the result's value."""
        self.shape_rule = rule
        return rule

    def lower(self, lowering: Rule) -> Rule:
        """Declares the ONNX lowering: the emitter and the record of values to the resulting values."""
        self.lowering = lowering
        return lowering

    def cost(self, rule: Rule) -> Rule:
        """Declares the multiply-adds: from the result's value and the record of specs."""
        self.cost_rule = rule
        return rule

    def places(self, operand: str) -> Callable[[Rule], Rule]:
        """Declares that an operand holds places: the rule says from the record of specs how many there are."""

        def declare(rule: Rule) -> Rule:
            self.looks_up = operand, rule
            return rule

        return declare

    def identity(self, name: str, why: str) -> Callable[[Rule], Rule]:
        """Declares a rewrite to the first operand: the rule says when, from the result's value and the record of specs.

        `why` says in one sentence why they are the same then.
        """

        def declare(rule: Rule) -> Rule:
            _register(IDENTITIES, name, identity_of(self.name, rule, name, why))
            return rule

        return declare

    def function(self, *targets: Callable[..., Any]) -> Callable[[Rule], Rule]:
        """Declares function spellings whose adapter turns their arguments into the op's."""

        def declare(adapter: Rule) -> Rule:
            for target in targets:
                _register(FUNCTIONS, target, (self, adapter))
            return adapter

        return declare

    def method(self, *names: str) -> Callable[[Rule], Rule]:
        """Declares tensor-method spellings whose adapter turns their arguments into the op's."""

        def declare(adapter: Rule) -> Rule:
            for name in names:
                _register(METHODS, name, (self, adapter))
            return adapter

        return declare

    def module(self, *classes: type[nn.Module]) -> Callable[[Rule], Rule]:
        """Declares module classes; the adapter takes the module and its forward's arguments."""

        def declare(adapter: Rule) -> Rule:
            for cls in classes:
                _register(MODULES, cls, (self, adapter))
            return adapter

        return declare

    def infer(self, *classes: type[nn.Module]) -> Callable[[Rule], Rule]:
        """Declares how lazy classes follow from the input: the module, then the record of specs."""

        def declare(rule: Rule) -> Rule:
            for cls in classes:
                _register(self.inference_rules, cls, rule)
            return rule

        return declare

    # Binding ------------------------------------------------------------------------------------

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], adapter: Adapter | None = None) -> Record[Any]:
        """The arguments as the op's record, defaults filled in.

        Raises CaptureError where they do not fit, as the call itself would raise TypeError.
        """
        if adapter is not None:
            try:
                bound = dict(adapter(*args, **kwargs))
            except TypeError as error:
                raise CaptureError(f"{self.name} is called with arguments it does not take: {error}") from error
        elif self._star is not None:
            bound = self._bind_star(args, kwargs)
        else:
            if len(args) > len(self._parameters):
                raise CaptureError(
                    f"{self.name} takes {len(self._parameters)} arguments, but is called with {len(args)}"
                )
            bound = dict(zip(self._parameters, args, strict=False))
            self._bind_keywords(bound, kwargs)
        for name in self._parameters:
            if name not in bound:
                if name not in self._defaults:
                    raise CaptureError(f"{self.name} is called without its argument {name!r}")
                bound[name] = self._defaults[name]
        return self.record(**bound)

    def _bind_star(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        positional = [name for name in self._parameters if name not in self._defaults]
        bound = dict(zip(positional, args, strict=False))
        rest = args[len(positional) :]
        if len(rest) == 1 and isinstance(rest[0], (tuple, list, torch.Size)):
            rest = tuple(rest[0])
        keywords = {PARAMETER_SYNONYMS.get(name, name): value for name, value in kwargs.items()}
        assert self._star is not None
        for name in (self._star, "size", "dims", "dim", "shape", "repeats"):
            if name in keywords and name not in self._parameters:
                given = keywords.pop(name)
                rest = tuple(given) if isinstance(given, (tuple, list)) else (given,)
        self._bind_keywords(bound, keywords)
        bound[self._star] = tuple(rest)
        return bound

    def _bind_keywords(self, bound: dict[str, Any], kwargs: Mapping[str, Any]) -> None:
        for keyword, value in kwargs.items():
            name = keyword if keyword in self._parameters else PARAMETER_SYNONYMS.get(keyword, keyword)
            if name in self._parameters:
                bound[name] = value
            elif keyword not in WITHOUT_EFFECT:
                raise CaptureError(f"{self.name} does not take an argument {keyword!r}")

    def is_random(self, record: Record[Any]) -> bool:
        """Whether computing it with these arguments may move torch's random state."""
        return self.random(record) if callable(self.random) else self.random


FUNCTIONS: dict[Callable[..., Any], tuple[Op, Adapter | None]] = {}
METHODS: dict[str, tuple[Op, Adapter | None]] = {}
LIBRARY: dict[str, tuple[Op, Adapter | None]] = {}
MODULES: dict[type[nn.Module], tuple[Op, Adapter]] = {}
IDENTITIES: dict[str, Rewrite] = {}


def _register(table: dict[Any, Any], spelling: Any, entry: Any) -> None:
    if spelling in table:
        raise ValueError(f"{spelling} is already registered, for {table[spelling]}")
    table[spelling] = entry


def is_inplace(method: str) -> bool:
    """Whether a tensor method's name is torch's in-place spelling: `add_`, but not `__add__`."""
    return method.endswith("_") and not method.endswith("__")


def find_method(method: str) -> tuple[Op, Adapter | None] | None:
    """The op of a tensor method; an in-place spelling resolves to the op without the underscore."""
    found = METHODS.get(method)
    if found is None and is_inplace(method):
        found = METHODS.get(method[:-1])
    return found


def find_function(target: Any) -> tuple[Op, Adapter | None] | None:
    """The op of a function. Those of other libraries, which are not loaded here, go by their names."""
    found = FUNCTIONS.get(target)
    if found is None and callable(target):
        found = LIBRARY.get(registered_name(target) or f"{target.__module__}.{getattr(target, '__qualname__', '')}")
    return found


def find_module(cls: type[nn.Module]) -> tuple[Op, Adapter] | None:
    """The op of a module class, or of the class whose forward it inherits unchanged."""
    for base in cls.__mro__:
        if base in MODULES:
            return MODULES[base] if base.forward is cls.forward else None
    return None


def has_rule(node: fx.Node) -> bool:
    """Whether an op covers this function or method node."""
    if node.op == "call_method":
        return find_method(str(node.target)) is not None
    return node.op == "call_function" and find_function(node.target) is not None


def given_as_numbers(
    kind: str, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Iterator[tuple[str, fx.Node, bool]]:
    """The nodes that a call of a function or method hands over where it takes numbers: to which parameter, which node,
    and whether it must be a number. A slice's bounds must be.

    Most are sizes. One that is a tensor stands for its number, as torch takes a tensor of one element there.
    """
    found = find_function(target) if kind == "call_function" else find_method(target)
    if found is None:
        return
    op, adapter = found
    given = (*args[is_of_tensor(kind, target) :], *kwargs.values())
    if all(type(value) in ATOMS and type(value) is not fx.Node for value in given):
        return
    try:
        bound = op.bind(args, kwargs, adapter)
    except CaptureError:  # it is told where the call gets its value
        return
    for name, value in bound.named().items():
        if name in op.of_numbers or name in op.of_either:
            yield from ((name, leaf, name in op.of_numbers) for leaf in leaves(value) if type(leaf) is fx.Node)
        elif type(value) is tuple or type(value) is slice:
            bounds = (part for part in (value if type(value) is tuple else (value,)) if type(part) is slice)
            yield from (("a slice", leaf, True) for part in bounds for leaf in leaves(part) if type(leaf) is fx.Node)


def is_of_tensor(kind: str, target: Any) -> bool:
    """Whether the first argument of a call is the tensor that the operation is of, as far as its spelling says."""
    if kind == "call_method":
        return True
    found = find_function(target)
    assert found is not None
    op, adapter = found
    return adapter is None and bool(op._parameters) and op._parameters[0] not in op.of_numbers


def bind_node(node: fx.Node, module: nn.Module | None) -> BoundCall | None:
    """The node's op with its arguments bound, or None where no op covers the node.

    `module` is the module that a `call_module` node names.
    """
    found: tuple[Op, Adapter | None] | None
    if node.op == "call_module":
        assert module is not None
        owner = find_module(type(module))
        if owner is None:
            return None
        op, bind_module = owner
        try:
            given = dict(bind_module(module, *node.args, **node.kwargs))
        except TypeError as error:
            raise CaptureError(
                f"{type(module).__name__}.forward({_parameters(module)}) does not take this call: {_call_text(node)}",
                remedy="give its forward the arguments that it declares",
            ) from error
        arguments = {name: value if type(value) in ATOMS else _known(module, value) for name, value in given.items()}
        return BoundCall(op, op.bind((), arguments), module, str(node.target))
    if node.op == "call_function":
        found = find_function(node.target)
    elif node.op == "call_method":
        found = find_method(str(node.target))
    else:
        return None
    if found is None:
        return None
    op, adapter = found
    return BoundCall(op, op.bind(node.args, node.kwargs, adapter))


def _parameters(module: nn.Module) -> str:
    """The parameters of a module's forward as they are declared, without their types."""
    declared = inspect.signature(module.forward).parameters.values()
    return ", ".join(str(parameter.replace(annotation=parameter.empty)) for parameter in declared)


def _call_text(node: fx.Node) -> str:
    """How many arguments a node has: `2 by position and attn_mask`."""
    return " and ".join([f"{len(node.args)} by position", *node.kwargs])


def _known(module: nn.Module, value: Any) -> Any:
    """None in place of an `Owned` that the module does not have (`bias=False`), its number in place of a tensor."""
    kind = type(value)
    if kind is tuple and CONSTANTS.issuperset(map(type, value)):
        return value
    if kind is Owned:
        return None if tensor_at(module, value.name) is None else value
    return map_structure(
        value, lambda leaf: leaf.item() if isinstance(leaf, torch.Tensor) and leaf.numel() == 1 else leaf
    )


__all__ = [
    "FUNCTIONS",
    "IDENTITIES",
    "METHODS",
    "MODULES",
    "BoundCall",
    "Inference",
    "Op",
    "Owned",
    "bind_node",
    "map_leaves",
]
