"""The caller's sample input, bound to the forward's parameters, as specs."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from passes.dimension import Dim, Size
from passes.errors import InputError
from passes.guards import GuardLog
from passes.nested import ATOMS, fields_of, is_dataclass_value, leaves, map_structure, with_fields
from passes.object_copy import ObjectCopier
from passes.spec import InputSpec, TensorSpec

# A dynamic dimension is sampled here unless the caller says otherwise: a small batch, and other axes
# wide enough for a usual stack of strided layers. Never 0 or 1, which are special to broadcasting.
BATCH_HINT, OTHER_HINT = 2, 64


@dataclass(frozen=True, slots=True)
class Leaf:
    """One tensor of the sample: its name (`x`, `state_0`, `batch_mask`), its spec, and its data where given."""

    name: str
    spec: TensorSpec
    tensor: torch.Tensor | None = None


@dataclass(slots=True)
class Sample:
    """A model's sample input: the arguments with a `Leaf` in place of each tensor or spec.

    `names` are the argument names, positional ones first.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    names: list[str]

    def leaves(self) -> list[Leaf]:
        return [leaf for leaf in leaves((self.args, self.kwargs)) if isinstance(leaf, Leaf)]

    def replace_leaves(self, replace: Callable[[str, TensorSpec], Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with `replace(name, spec)` in place of each leaf, in order."""
        return self._map(lambda leaf: replace(leaf.name, leaf.spec))

    def data(self, sizes: Mapping[str, int]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments as tensors: copies of the caller's own where they have these sizes, random ones elsewhere.

        Raises InputError where torch cannot make one: too large, or of a dtype without data.
        """

        def tensor(leaf: Leaf) -> torch.Tensor:
            shape = tuple(size.at(sizes) if isinstance(size, Dim) else size for size in leaf.spec.shape)
            if leaf.tensor is not None and tuple(leaf.tensor.shape) == shape:
                return leaf.tensor.detach().clone()
            try:
                return random_tensor(shape, leaf.spec)
            except (RuntimeError, TypeError) as error:
                raise InputError(
                    f"no data can be made for the input {leaf.name} {leaf.spec}: {str(error).strip().splitlines()[0]}",
                    remedy="convert with verify=False (--no-verify), or give another sample",
                ) from error

        return self._map(tensor)

    def _map(self, replace: Callable[[Leaf], Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with other leaves, and copies of the caller's objects: a forward may write to them."""
        copied = _Objects("")

        def leaf(value: Any) -> Any:
            return replace(value) if isinstance(value, Leaf) else copied.copy(value)

        args, kwargs = map_structure((self.args, self.kwargs), leaf, keep_dataclasses=True)
        return args, kwargs

    def filled(self, tensors: Sequence[torch.Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with these tensors, in order, in place of the leaves."""
        given = iter(tensors)
        return self._map(lambda _: next(given))

    def with_distinct_names(self) -> Sample:
        """The sample with names that are words, and different ones."""
        taken: set[str] = set()

        def distinct(leaf: Leaf) -> Leaf:
            name = re.sub(r"\W", "_", leaf.name)
            while name in taken:
                name += "_1"
            taken.add(name)
            return dataclasses.replace(leaf, name=name)

        args, kwargs = self._map(distinct)
        return Sample(args, kwargs, self.names)

    def dynamic_axes(self) -> list[dict[int, str]]:
        """The names of each leaf's dynamic axes."""
        return [
            {axis: str(size) for axis, size in enumerate(leaf.spec.shape) if isinstance(size, Dim)}
            for leaf in self.leaves()
        ]

    def dimensions(self) -> list[str]:
        """The names of the dynamic dimensions."""
        return list(
            dict.fromkeys(str(size) for leaf in self.leaves() for size in leaf.spec.shape if isinstance(size, Dim))
        )


def bind_sample(
    model: nn.Module,
    args: Any,
    kwargs: Mapping[str, Any] | None,
    dynamic_shapes: Any,
    dims: Mapping[str, int] | None,
    log: GuardLog,
) -> Sample:
    """The sample bound to the forward's parameters.

    `args` is a tuple of tensors, specs and plain values, nested as the forward takes them; one tensor or
    spec stands for a tuple of it. `dims` gives the sizes at which dynamic dimensions are sampled.

    Raises InputError where the arguments do not fit the forward's signature or `dynamic_shapes` does not
    fit the arguments.
    """
    args = args if isinstance(args, tuple) else tuple(args) if isinstance(args, list) else (args,)
    kwargs = dict(kwargs or {})
    names = _argument_names(model, args, kwargs)
    entries = _dynamic_entries(dynamic_shapes, names, len(args))
    symbols = _Symbols(dict(dims or {}), log)
    bound = [
        _to_leaves(name, value, entry, symbols)
        for (name, entry), value in zip(entries.items(), [*args, *kwargs.values()], strict=True)
    ]
    symbols.check_all_known()
    sample = Sample(tuple(bound[: len(args)]), dict(zip(kwargs, bound[len(args) :], strict=True)), names)
    return sample.with_distinct_names()


def input_names(model: nn.Module) -> list[str]:
    """The forward's parameter names that take an input, without *args and **kwargs."""
    parameters = inspect.signature(model.forward).parameters.values()
    return [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _argument_names(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[str]:
    try:
        signature = inspect.signature(model.forward)
    except ValueError as error:
        raise InputError(
            f"the forward of {type(model).__name__} is no Python function, so it cannot be traced",
            remedy="pass the module that it was compiled from",
        ) from error
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        listed = ", ".join(str(p.replace(annotation=p.empty)) for p in signature.parameters.values())
        required = [
            p.name
            for p in signature.parameters.values()
            if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]
        raise InputError(
            f"{type(model).__name__}.forward({listed}) does not take this sample of {len(args)} positional "
            f"and {len(kwargs)} named inputs: {error}",
            remedy=f"give an input for each of: {', '.join(required) or 'none'}",
        ) from error
    names: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}_{index}" for index in range(len(args) - len(names))]
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD) and len(names) < len(args):
            names.append(parameter.name)
    return [*names, *kwargs]


def _dynamic_entries(dynamic_shapes: Any, names: list[str], positional: int) -> dict[str, Any]:
    if dynamic_shapes is None:
        return dict.fromkeys(names)
    if isinstance(dynamic_shapes, Mapping):
        unknown = [name for name in dynamic_shapes if name not in names]
        if unknown:
            raise InputError(
                f"dynamic_shapes names {unknown[0]!r}, but the inputs are {', '.join(names)}",
                remedy="name one of the inputs",
            )
        return {name: dynamic_shapes.get(name) for name in names}
    entries = list(dynamic_shapes)
    if len(entries) not in (positional, len(names)):
        raise InputError(
            f"dynamic_shapes has {len(entries)} entries, but the sample has {len(names)} inputs",
            remedy="give one entry per input",
        )
    return dict(zip(names, [*entries, *[None] * (len(names) - len(entries))], strict=True))


class _Symbols:
    """Makes one `Dim` for each name."""

    def __init__(self, sizes: dict[str, int], log: GuardLog):
        self.sizes = sizes
        self.log = log
        self.known: dict[str, Dim] = {}
        self.found: dict[str, int] = {}

    def dim(self, name: str, axis: int, sample: int | None) -> Dim:
        if sample is not None and self.found.setdefault(name, sample) != sample:
            raise InputError(
                f"the dynamic dimension {name} is {self.found[name]} in one place of the sample, {sample} in another",
                remedy="give samples of one size, or two names",
            )
        if name not in self.known:
            default = BATCH_HINT if axis == 0 else OTHER_HINT
            size = self.sizes.get(name, max(2, sample) if sample is not None else default)
            if size < 2:
                raise InputError(
                    f"the dynamic dimension {name} is sampled at {size}",
                    remedy="sample it at 2 or more; 1 will still run",
                )
            self.known[name] = Dim.symbol(name, size, self.log)
        return self.known[name]

    def check_all_known(self) -> None:
        for name in self.sizes:
            if name not in self.known:
                listed = f"the dynamic dimensions are {', '.join(self.known)}" if self.known else "none is dynamic"
                raise InputError(f"dims gives a size for {name}, but {listed}", remedy="name one of them")


class _Objects:
    """Copies what is no tensor and no container of them among the arguments: each object once."""

    def __init__(self, name: str):
        self._name = name
        self._memo: dict[int, Any] = {}
        self._copier = ObjectCopier(self._memo, self._refused, self._refused, lambda: f"the argument {name}".strip())

    def copy(self, value: Any) -> Any:
        return value if type(value) in ATOMS else self._copier.copy(value)

    def checked(self, value: Any) -> Any:
        """The object, if it can be an argument. Raises InputError where it holds a tensor or a module."""
        self.copy(value)
        for found in self._memo.values():  # an object's own way of being copied may have copied one
            if isinstance(found, (torch.Tensor, nn.Module)):
                self._refused(found)
        return value

    def _refused(self, value: torch.Tensor | nn.Module) -> Any:
        kind = (
            f"a tensor {TensorSpec.of(value)}"
            if isinstance(value, torch.Tensor)
            else f"the module {type(value).__name__}"
        )
        raise InputError(
            f"{self._name} holds {kind} inside an object of a class that is not known here; what it holds would be "
            "written into the export as it is now",
            remedy="give its tensors as arguments of their own, in tuples, lists, dicts or dataclasses",
        )


def _to_leaves(name: str, value: Any, entry: Any, symbols: _Symbols) -> Any:
    if isinstance(value, (torch.Tensor, InputSpec)):
        data = value if isinstance(value, torch.Tensor) and value.device.type != "meta" else None
        return Leaf(name, _leaf_spec(name, value, entry, symbols), data)
    if isinstance(value, PackedSequence):
        raise InputError(
            f"{name} is a packed sequence, whose sizes depend on data", remedy="give the padded tensor instead"
        )
    if isinstance(value, np.ndarray):
        raise InputError(f"{name} is a numpy array, no tensor", remedy="give torch.from_numpy of it")
    if isinstance(value, (tuple, list)):
        entries = entry if isinstance(entry, Sequence) and len(entry) == len(value) else [None] * len(value)
        keys = getattr(value, "_fields", range(len(value)))  # a named tuple's, or positions
        items = [
            _to_leaves(f"{name}_{key}", item, e, symbols) for key, item, e in zip(keys, value, entries, strict=True)
        ]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict):
        given = entry if isinstance(entry, Mapping) else {}
        return {key: _to_leaves(f"{name}_{key}", item, given.get(key), symbols) for key, item in value.items()}
    if is_dataclass_value(value):
        return with_fields(value, _to_leaves(name, fields_of(value), entry, symbols))
    return value if type(value) in ATOMS else _Objects(name).checked(value)


def _leaf_spec(name: str, value: torch.Tensor | InputSpec, entry: Any, symbols: _Symbols) -> TensorSpec:
    axes = _axis_names(name, entry, len(value.shape))
    shape: list[Size] = []
    for axis, size in enumerate(value.shape):
        dim_name = axes.get(axis) or (size if isinstance(size, str) else None)
        shape.append(size if dim_name is None else symbols.dim(dim_name, axis, size if isinstance(size, int) else None))  # type: ignore[arg-type]
    return TensorSpec(tuple(shape), value.dtype, value.device)


def _axis_names(name: str, entry: Any, ndim: int) -> dict[int, str]:
    """`{axis: dimension name}` of one `dynamic_shapes` entry: `{0: "N"}`, `{0: Dim("N")}`, `("N", None)`."""
    if entry is None:
        return {}
    pairs = entry.items() if isinstance(entry, Mapping) else enumerate(entry)
    names: dict[int, str] = {}
    for axis, dim in pairs:
        if dim is None or isinstance(dim, int) or _is_static(dim):
            continue
        if not -ndim <= axis < ndim:
            raise InputError(
                f"dynamic_shapes names axis {axis} of {name!r}, which has {ndim} axes", remedy="name an axis it has"
            )
        axis %= ndim
        spelled = dim if isinstance(dim, str) else getattr(dim, "__name__", None)
        if spelled is None or not spelled.isidentifier() or type(dim).__name__ == "_DimHint":
            spelled = f"{name}_dim_{axis}"
        names[axis] = spelled
    return names


def _is_static(dim: object) -> bool:
    """Whether a `torch.export.Dim` hint says that an axis keeps its size."""
    if isinstance(dim, str):
        return False
    from torch.export import Dim as ExportDim

    return bool(dim == ExportDim.STATIC)


def random_tensor(shape: tuple[int, ...], spec: TensorSpec) -> torch.Tensor:
    """A random tensor in the spec's dtype: normal, or 0 and 1 for integers and booleans."""
    if spec.dtype.is_floating_point:
        return torch.randn(shape).to(spec.dtype)
    return torch.randint(0, 2, shape).to(spec.dtype)
