"""The caller's sample input, bound to the forward's parameters, as specs."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from passes.errors import InputError
from passes.isolation.object_copy import ObjectCopier
from passes.sizes.dimension import Dim, Size, violated_by_sample
from passes.sizes.formulas.formula import Formula
from passes.sizes.guards import GuardLog
from passes.values.nested import ATOMS, leaves, map_structure, opened
from passes.values.spec import InputSpec, TensorSpec
from tracer.inputs.dynamic_shapes import DynamicShapes, NamedAxis, declared_names, named_axes
from tracer.inputs.promises import check_promises
from tracer.inputs.size_names import SizeNames


@dataclass(frozen=True, slots=True)
class Leaf:
    """One tensor of the sample: its name (`x`, `state_0`, `batch_mask`), its spec, and its data where given."""

    name: str
    spec: TensorSpec
    tensor: torch.Tensor | None = None


@dataclass(slots=True)
class Sample:
    """A model's sample input: the arguments with a `Leaf` in place of each tensor or spec, their containers opened.

    `names` are the argument names, positional ones first; `given` has the size of each named dimension in the caller's
    own data, where there are some, and `free` are those that are sampled at sizes of our choice. `state` are tensors of
    the model, by path, that are inputs beside the arguments.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    names: list[str]
    given: dict[str, int] = field(default_factory=dict)
    free: frozenset[str] = frozenset()
    state: dict[str, Leaf] = field(default_factory=dict)

    def leaves(self) -> list[Leaf]:
        return [leaf for leaf in leaves((self.args, self.kwargs)) if isinstance(leaf, Leaf)]

    def replace_leaves(
        self, replace: Callable[[str, TensorSpec], Any], keep_classes: bool = True
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with `replace(name, spec)` in place of each leaf, in order.

        Containers of the caller's classes stay open unless classes are to be kept: not all take what is no tensor.
        """
        return self._map(lambda leaf: replace(leaf.name, leaf.spec), keep_classes)

    def data(
        self, sizes: Mapping[str, int], chosen: Mapping[str, torch.Tensor] | None = None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments as tensors: those `chosen` for leaves of these names, copies of the caller's own where they
        have these sizes, random ones elsewhere.

        Raises InputError where torch cannot make one: too large, or of a dtype without data.
        """

        def tensor(leaf: Leaf) -> torch.Tensor:
            if chosen and leaf.name in chosen:
                return chosen[leaf.name]
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

    def _map(self, replace: Callable[[Leaf], Any], keep_classes: bool = True) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with other leaves, and copies of the caller's objects: a forward may write to them."""
        copied = _Objects("")

        def leaf(value: Any) -> Any:
            return replace(value) if isinstance(value, Leaf) else copied.copy(value)

        args, kwargs = map_structure((self.args, self.kwargs), leaf, keep_classes)
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

        args, kwargs = self._map(distinct, keep_classes=False)
        return Sample(args, kwargs, self.names, self.given, self.free)

    def dynamic_axes(self) -> list[dict[int, Formula]]:
        """The sizes of each leaf's dynamic axes: names, or formulas of one."""
        return [
            {axis: size.formula for axis, size in enumerate(leaf.spec.shape) if isinstance(size, Dim)}
            for leaf in self.leaves()
        ]

    def dimensions(self) -> list[str]:
        """The names of the dynamic dimensions."""
        return list(
            dict.fromkeys(name for axes in self.dynamic_axes() for size in axes.values() for name in size.symbols())
        )


def bind_sample(
    model: nn.Module,
    args: Any,
    kwargs: Mapping[str, Any] | None,
    dynamic_shapes: Any,
    dims: Mapping[str, int] | None,
    log: GuardLog,
    file_names: Sequence[str] | None = None,
) -> Sample:
    """The sample bound to the forward's parameters.

    `args` is a tuple of tensors, specs and plain values, nested as the forward takes them; one tensor or
    spec stands for a tuple of it. `dims` gives the sizes at which dynamic dimensions are sampled, and `file_names` the
    names that the exported file will have for its inputs.

    Raises InputError where the arguments do not fit the forward's signature or `dynamic_shapes` does not
    fit the arguments.
    """
    args = args if isinstance(args, tuple) else tuple(args) if isinstance(args, list) else (args,)
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise InputError(
            f"kwargs is a {type(kwargs).__name__}, no mapping", remedy='give the named inputs as {"name": input}'
        )
    kwargs = dict(kwargs or {})
    names = _argument_names(model, args, kwargs)
    shapes = DynamicShapes(dynamic_shapes, names, len(args), declared_names(model), file_names)
    sizes = SizeNames(dims or {}, log)
    bound = [
        _to_leaves(name, value, shapes.of(name), shapes, sizes)
        for name, value in zip(names, [*args, *kwargs.values()], strict=True)
    ]
    sizes.settle()
    sample = Sample(
        tuple(bound[: len(args)]), dict(zip(kwargs, bound[len(args) :], strict=True)), names, sizes.found, sizes.free()
    )
    return sample.with_distinct_names()


def check_sample(log: GuardLog) -> None:
    """Raises InputError where what was found holds at the sampled sizes, but not for all that the caller gave: the
    sample as it is, and what was promised of sizes.

    A dimension is never sampled at 0 or 1, which are special to broadcasting, and may be sampled at another size on
    demand; so the guards, and the bounds that decided something, may exclude the caller's own data.
    """
    check_promises(log)
    broken = violated_by_sample(log)
    if not broken:
        return
    first = broken[0]
    listed = ", ".join(dict.fromkeys(guard.condition for guard in broken))
    given = ", ".join(f"{name} = {size}" for name, size in log.given.items())
    taken = ", ".join(f"{name} = {log.sampled[name]}" for name in log.given)
    raise InputError(
        f"the sample has {given}, but the model was followed at {taken}, and what was found there needs {listed}",
        remedy=f"give a sample of another size, or a fixed one: do not name the axis {', '.join(log.given)}",
    ).placed(first.location)


def _argument_names(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[str]:
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError) as error:
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
            remedy="register its class with torch.utils._pytree.register_pytree_node, or give its tensors in tuples, "
            "lists, dicts or dataclasses",
        )


def _to_leaves(name: str, value: Any, entry: Any, shapes: DynamicShapes, sizes: SizeNames) -> Any:
    if isinstance(value, (torch.Tensor, InputSpec)):
        if isinstance(value, torch.Tensor):
            _check_plain(name, value)
        data = value if isinstance(value, torch.Tensor) and value.device.type != "meta" else None
        return Leaf(name, _leaf_spec(name, value, shapes.next_tensor(entry), sizes), data)
    if isinstance(value, PackedSequence):
        raise InputError(
            f"{name} is a packed sequence, whose sizes depend on data", remedy="give the padded tensor instead"
        )
    if isinstance(value, np.ndarray):
        raise InputError(f"{name} is a numpy array, no tensor", remedy="give torch.from_numpy of it")
    parts = None if isinstance(value, tuple) else opened(value)
    if parts is None and isinstance(value, (tuple, list)):
        keys = getattr(value, "_fields", range(len(value)))  # a named tuple's, or positions
        items = _parts_to_leaves(name, dict(zip(keys, value, strict=True)), entry, shapes, sizes)
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if parts is not None:
        return parts.with_parts(_parts_to_leaves(name, parts, entry, shapes, sizes))
    if isinstance(value, dict):
        return dict(zip(value, _parts_to_leaves(name, value, entry, shapes, sizes), strict=True))
    return value if type(value) in ATOMS else _Objects(name).checked(value)


def _parts_to_leaves(
    name: str, parts: Mapping[Any, Any], entry: Any, shapes: DynamicShapes, sizes: SizeNames
) -> list[Any]:
    """The parts of a container. Its entry has an entry for each, by name or in order."""
    entries: Mapping[Any, Any] = entry if isinstance(entry, Mapping) else {}
    if isinstance(entry, Sequence) and not isinstance(entry, str) and len(entry) == len(parts):
        entries = dict(zip(parts, entry, strict=True))
    return [_to_leaves(f"{name}_{key}", part, entries.get(key), shapes, sizes) for key, part in parts.items()]


def _check_plain(name: str, tensor: torch.Tensor) -> None:
    """Raises InputError unless the tensor has one shape, and its elements laid out in strides."""
    kinds = {
        "not initialised": isinstance(tensor, (nn.UninitializedParameter, nn.UninitializedBuffer)),
        "nested": tensor.is_nested,
        "quantized": tensor.is_quantized,
        "sparse": tensor.layout != torch.strided,
    }
    for kind, holds in kinds.items():
        if holds:
            raise InputError(f"the input {name} is {kind}, which ONNX has no inputs of", remedy="give a plain tensor")


def _leaf_spec(name: str, value: torch.Tensor | InputSpec, entry: Any, sizes: SizeNames) -> TensorSpec:
    axes = named_axes(name, entry, len(value.shape))
    for axis in axes.values():
        sizes.promise(axis.constraints)
    if isinstance(value, InputSpec):
        sizes.promise(value.constraints)
    shape: list[Size] = []
    for place, size in enumerate(value.shape):
        named = axes.get(place)
        if isinstance(size, str):
            shape.append(sizes.dim((named or NamedAxis.of(size)).size, place, None))
        else:
            shape.append(size if named is None else sizes.dim(named.size, place, size))
    return TensorSpec(tuple(shape), value.dtype, value.device)


def random_tensor(shape: tuple[int, ...], spec: TensorSpec) -> torch.Tensor:
    """A random tensor in the spec's dtype: normal, or 0 and 1 for integers and booleans."""
    if spec.dtype.is_floating_point:
        return torch.randn(shape).to(spec.dtype)
    return torch.randint(0, 2, shape).to(spec.dtype)
