"""What a lowering talks to: ONNX nodes, constants, sizes, names and the opset.

An `Emitter` builds one onnx graph. Weights are kept aside as torch tensors and never copied into the
graph here; the writer puts them into the file from their own memory.

Names. A node that an op lowers to alone is named by its module path (`features.0`), or by its fx name
within the module where it is no module call (`layer1.0/add`); where an op needs several, each is
`<that name>/<OpType>`. The op's result carries the plain name, so that a value can be found by its module.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import zip_longest
from typing import Any, NoReturn

import numpy as np
import onnx
import torch
from onnx import GraphProto, NodeProto

from passes.errors import UnsupportedOpError
from passes.onnx.computed_sizes import ComputedSizes
from passes.onnx.opsets import AXES_AS_INPUT, Form, has_attribute, since, takes
from passes.onnx.protos import add_attribute, raw_bytes, rename, value_info
from passes.onnx.types import onnx_type
from passes.onnx.value import Value
from passes.sizes.dimension import Dim, Size, hint, is_static, same_size
from passes.sizes.floating import DynamicNumber, Floating
from passes.sizes.formulas.formula import Formula
from passes.values.spec import TensorSpec

Numbers = bool | int | float | Sequence[Any] | np.ndarray[Any, Any] | torch.Tensor


class Emitter:
    """Builds one ONNX graph, node by node (see the module's docstring).

    `opset` is the opset that lowerings honour; `result` is the propagated value of the op being lowered:
    a TensorSpec, or a tuple of them; `specs` has those of all results, by name. `state` is the model's state_dict,
    whose keys name nothing but their own tensors; `interface` are the names of the graph's inputs and outputs.
    """

    def __init__(self, opset: int, state: Mapping[str, torch.Tensor], interface: Collection[str]):
        self.opset = opset
        self.graph = GraphProto()
        self.weights: dict[str, torch.Tensor] = {}
        self.specs: dict[str, TensorSpec] = {}
        self.result: Any = None
        self._state = state
        self._interface = interface
        self._weight_names: dict[int, str] = {}
        self._computed = ComputedSizes(self)
        self._names: dict[str, int] = dict.fromkeys(state, 0)
        self._base = ""
        self._mark = 0

    # Nodes and constants, for lowerings --------------------------------------------------------

    def node(self, op_type: str, *inputs: Value | None, **attributes: Any) -> Value:
        """One node with one result. A None input is an optional one left out; a None attribute is not written."""
        return self.nodes(op_type, *inputs, outputs=1, **attributes)[0]

    def nodes(self, op_type: str, *inputs: Value | None, outputs: int, **attributes: Any) -> tuple[Value, ...]:
        """One node with several results."""
        return self._nodes(self._fresh(f"{self._base}/{op_type}"), op_type, inputs, outputs, attributes)

    def named_node(self, name: str, op_type: str, *inputs: Value) -> Value:
        """One node with one result and a name of its own."""
        return self._nodes(self._fresh(name), op_type, inputs, 1, {})[0]

    def _nodes(
        self,
        name: str,
        op_type: str,
        inputs: Sequence[Value | None],
        outputs: int,
        attributes: Mapping[str, Any],
    ) -> tuple[Value, ...]:
        node = self.graph.node.add()
        node.op_type = op_type
        node.name = name
        names = [value.name if value is not None else "" for value in inputs]
        while names and not names[-1]:
            names.pop()
        node.input.extend(names)
        results = [name] if outputs == 1 else [f"{name}.{index}" for index in range(outputs)]
        node.output.extend(results)
        for key, attribute in attributes.items():
            if isinstance(attribute, DynamicNumber):
                self.unsupported(f"ONNX takes {attribute} as a fixed number only")
            if attribute is not None:
                add_attribute(node, key, attribute)
        return tuple(Value(result) for result in results)

    def constant(self, numbers: Numbers, dtype: torch.dtype | None = None) -> Value:
        """A constant as a small initializer; int64, float32 or bool where no dtype is given."""
        data = numbers if isinstance(numbers, torch.Tensor) else torch.as_tensor(np.asarray(numbers))
        if dtype is None and data.dtype == torch.float64 and not isinstance(numbers, torch.Tensor):
            dtype = torch.float32
        data = data.detach().to(device="cpu", dtype=dtype or data.dtype).contiguous()
        name = self._fresh(f"{self._base}/constant")
        tensor = self.graph.initializer.add()
        tensor.name = name
        tensor.data_type = onnx_type(data.dtype)
        tensor.dims.extend(data.shape)
        tensor.raw_data = raw_bytes(data).tobytes()
        return Value(name, TensorSpec.of(data))

    def scalar(self, number: Size | Floating | float, like: Value | TensorSpec | torch.dtype) -> Value:
        """A 0-d value in the dtype of `like`: a constant, where the number is known."""
        dtype = like if isinstance(like, torch.dtype) else like.dtype
        if isinstance(number, (Dim, Floating)):
            return self.operand(number, dtype)
        return self.constant(torch.tensor(number, dtype=dtype))

    def operand(self, operand: Value | Size | Floating | float, dtype: torch.dtype) -> Value:
        """An operand of an arithmetic op as a value of that dtype, be it a tensor, a number or a dynamic size."""
        if isinstance(operand, Value):
            return self.cast(operand, dtype)
        if isinstance(operand, Dim):
            return self.cast(self.squeeze(self.size(operand), 0), dtype)
        if isinstance(operand, Floating):
            return self.cast(self.squeeze(self._computed.real(operand.real), 0), dtype)
        return self.scalar(operand, dtype)

    def ints(self, *numbers: int) -> Value:
        """A 1-d int64 constant."""
        return self.constant(torch.tensor(numbers, dtype=torch.int64))

    def weight(self, name: str, tensor: torch.Tensor) -> Value:
        """The initializer of a parameter or buffer, under its state_dict key; a tied one under its first.

        What is no tensor of the state_dict gets a name that no key has, and so does one whose key names an input.
        """
        known = self._weight_names.get(id(tensor))
        if known is None:
            onnx_type(tensor.dtype)
            known = name if self._state.get(name) is tensor else self._fresh(name)
            while known in self._interface:
                known = self._fresh(name)
            self._weight_names[id(tensor)] = known
            self.weights[known] = tensor
        return Value(known, TensorSpec.of(tensor))

    def cast(self, value: Value, dtype: torch.dtype) -> Value:
        """The value in another dtype; the value itself where it has that dtype already."""
        if value.spec is not None and value.spec.dtype == dtype:
            return value
        spec = value.spec.with_dtype(dtype) if value.spec is not None else None
        return Value(self.node("Cast", value, to=onnx_type(dtype)).name, spec)

    def unsupported(self, reason: str) -> NoReturn:
        """Says that this form of the op cannot be lowered to ONNX at this opset."""
        raise UnsupportedOpError(reason)

    # What the opset has -----------------------------------------------------------------------

    def has(self, op_type: str) -> bool:
        """Whether ONNX has an operator at this opset."""
        return self.opset >= since(op_type)

    def takes(self, op_type: str, dtype: torch.dtype) -> bool:
        """Whether an operator's first input may be of a dtype at this opset."""
        return takes(op_type, dtype, self.opset)

    def has_attribute(self, op_type: str, name: str) -> bool:
        """Whether an operator has an attribute at this opset."""
        return has_attribute(op_type, name, self.opset)

    def allows(self, form: Form) -> bool:
        """Whether an operator may be used in a form at this opset."""
        return self.opset >= form.since

    # Forms that differ between opsets ---------------------------------------------------------

    def reduce(self, op_type: str, value: Value, dims: Sequence[int] | None, keepdim: bool) -> Value:
        """ReduceSum, ReduceMean …: the axes are an input since opset 18 (ReduceSum: 13); None reduces all."""
        if dims is None:
            return self.node(op_type, value, keepdims=int(keepdim))
        if op_type == "ReduceSum" or self.allows(AXES_AS_INPUT):
            return self.node(op_type, value, self.ints(*dims), keepdims=int(keepdim))
        return self.node(op_type, value, axes=list(dims), keepdims=int(keepdim))

    def squeeze(self, value: Value, *dims: int) -> Value:
        result = self.node("Squeeze", value, self.ints(*dims))
        if value.spec is None:
            return result
        gone = {dim % value.ndim for dim in dims}
        return _with_shape(result, value, [size for axis, size in enumerate(value.shape) if axis not in gone])

    def unsqueeze(self, value: Value, *dims: int) -> Value:
        result = self.node("Unsqueeze", value, self.ints(*dims))
        if value.spec is None:
            return result
        rank = value.ndim + len(dims)
        rest = iter(value.shape)
        new = {dim % rank for dim in dims}
        return _with_shape(result, value, [1 if axis in new else next(rest) for axis in range(rank)])

    def slice(self, value: Value, dim: int, start: Size, end: Size, step: int = 1) -> Value:
        return self.node(
            "Slice",
            value,
            self.sizes([start]),
            self.sizes([end]),
            self.ints(dim),
            self.ints(step) if step != 1 else None,
        )

    def split(self, value: Value, lengths: Sequence[Size], dim: int) -> tuple[Value, ...]:
        return self.nodes("Split", value, self.sizes(lengths), outputs=len(lengths), axis=dim)

    # Graphs within the graph --------------------------------------------------------------------

    def branch(
        self,
        predicate: Value,
        then: Callable[[], Sequence[Value]],
        otherwise: Callable[[], Sequence[Value]],
        results: Sequence[TensorSpec],
    ) -> tuple[Value, ...]:
        """An If: what one of two sides gives, which emit themselves into graphs of their own."""
        sides = [self._body(role, side, (), results) for role, side in (("then", then), ("else", otherwise))]
        return self.nodes("If", predicate, outputs=len(results), then_branch=sides[0], else_branch=sides[1])

    def loop(
        self, condition: Value, step: Callable[..., Sequence[Value]], states: Sequence[Value]
    ) -> tuple[Value, ...]:
        """A Loop for as long as `condition` says: the final states.

        `step(*states)` emits one step into a graph of its own, and returns whether to go on, and the next states; each
        state keeps its shape and dtype.
        """
        scalars = [TensorSpec((), torch.int64), TensorSpec((), torch.bool)]
        specs = [value.known for value in states]
        given = [("iteration", scalars[0]), ("condition", scalars[1]), *(("state", spec) for spec in specs)]
        body = self._body("step", lambda _, __, *inner: step(*inner), given, [scalars[1], *specs])
        return self.nodes("Loop", None, condition, *states, outputs=len(states), body=body)

    def scan(
        self,
        step: Callable[..., Sequence[Value]],
        states: Sequence[Value],
        sequences: Sequence[Value],
        *,
        axis: int = 0,
        backwards: bool = False,
        stacked: Sequence[TensorSpec] = (),
        stacked_along: Sequence[int] = (),
    ) -> tuple[Value, ...]:
        """A Scan over an axis of all `sequences`: the final states, then what the steps gave, stacked: along the first
        axis, or those that are named. `stacked` are the specs of what a step gives, where they are known.

        `step(*states, *slices)` emits one step into a graph of its own, and returns the next states and any number of
        results; each state keeps its shape.
        """
        given: list[tuple[str, TensorSpec | None]] = [("state", value.spec) for value in states]
        given += [("slice", value.spec and value.spec.without_axis(axis)) for value in sequences]
        body = self._body("step", step, given, [*(value.spec for value in states), *stacked])
        results = len(body.output) - len(states)
        return self.nodes(
            "Scan",
            *states,
            *sequences,
            outputs=len(body.output),
            body=body,
            num_scan_inputs=len(sequences),
            scan_input_axes=[axis] * len(sequences) if axis else None,
            scan_input_directions=[1] * len(sequences) if backwards else None,
            scan_output_directions=[1] * results if backwards and results else None,
            scan_output_axes=list(stacked_along) if any(stacked_along) else None,
        )

    def _body(
        self,
        role: str,
        emit: Callable[..., Sequence[Value]],
        given: Sequence[tuple[str, TensorSpec | None]],
        results: Sequence[TensorSpec | None] = (),
    ) -> GraphProto:
        """A graph of its own with what `emit` emits, on values that are called by these names, and of these specs where
        they are known. Values from outside may be used in it."""
        body = GraphProto(name=self._fresh(f"{self._base}/{role}"))
        with self.aside():
            self.graph = body
            inputs = [Value(self._fresh(f"{self._base}/{name}"), spec) for name, spec in given]
            found = self._own_results(emit(*inputs))
        body.input.extend(_declaration(value, value.spec) for value in inputs)
        body.output.extend(_declaration(*pair) for pair in zip_longest(found, results))
        return body

    def _own_results(self, results: Sequence[Value]) -> list[Value]:
        """The results of a graph within, each computed in it by itself: one from outside is copied."""
        free = {name for node in self.graph.node for name in node.output}
        own: list[Value] = []
        for value in results:
            own.append(value if value.name in free else self.node("Identity", value))
            free.discard(value.name)
        return own

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Inside the block other ops are lowered, as parts of the one that is; after it, that one goes on. Sizes that
        are computed in it stay there."""
        before = self.graph, self._base, self._mark, self.result
        try:
            with self._computed.apart():
                yield
        finally:
            self.graph, self._base, self._mark, self.result = before

    # Sizes --------------------------------------------------------------------------------------

    def reshape(self, value: Value, shape: Sequence[Size]) -> Value:
        """Reshape to a shape that may have dynamic sizes: see `target_shape`."""
        current = value.spec.shape if value.spec is not None else ()
        empty = any(isinstance(size, int) and size == 0 for size in shape)
        target = self.target_shape(shape, current)
        result = self.node(
            "Reshape", value, target, allowzero=1 if empty and self.has_attribute("Reshape", "allowzero") else None
        )
        return _with_shape(result, value, shape)

    def target_shape(self, shape: Sequence[Size], current: Sequence[Size] = ()) -> Value:
        """A shape operand for Reshape; a constant if the runtime can fill in the dynamic sizes.

        One is left open as -1; those that the `current` shape has at the same axis are copied, as 0.
        """
        dynamic = [axis for axis, size in enumerate(shape) if isinstance(size, Dim)]
        if any(isinstance(size, int) and size == 0 for size in shape):
            return self.sizes(shape)
        kept = [axis for axis in dynamic if axis < len(current) and same_size(shape[axis], current[axis])]
        open_axes = dynamic if len(dynamic) == 1 else [axis for axis in dynamic if axis not in kept]
        if len(open_axes) > 1:
            return self.sizes(shape)
        return self.ints(
            *(-1 if axis in open_axes else size if isinstance(size, int) else 0 for axis, size in enumerate(shape))
        )

    def sizes(self, sizes: Iterable[Size]) -> Value:
        """A 1-d int64 value of the sizes; computed from the inputs' shapes where they are dynamic."""
        sizes = list(sizes)
        if is_static(sizes):
            return self.ints(*(hint(size) for size in sizes))
        parts = [self.size(size) for size in sizes]
        return parts[0] if len(parts) == 1 else self.node("Concat", *parts, axis=0)

    def size(self, size: Size | Formula) -> Value:
        """One size as an int64 value of shape [1]. A formula is computed once in the graph, wherever it recurs."""
        return self._computed.size(size.formula if isinstance(size, Dim) else size)

    def axis_size(self, value: Value, axis: int) -> Value:
        """The size of a value's axis as an int64 value of shape [1]."""
        if self.has_attribute("Shape", "start"):
            return self.node("Shape", value, start=axis, end=axis + 1)
        return self.node("Gather", self.node("Shape", value), self.ints(axis))

    def found(self, value: Value, axis: int, size: Dim) -> None:
        """Notes that an axis of a value has a size that comes from data, which becomes known to `size`."""
        self._computed.note(value, axis, size)

    def counted(self, number: Dim | Floating, value: Value) -> None:
        """Notes a number that comes from data, a tensor of one element, which becomes known to `size`."""
        self._computed.note_number(number, self.reshape(value, [1]))

    # The graph's frame, for the lowering pass ---------------------------------------------------

    def input(self, name: str, spec: TensorSpec) -> Value:
        """Declares a graph input; its named dimensions become known to `size`.

        The size of an axis is a name, or a multiple of one and more.
        """
        value = Value(name, spec)
        self._names.setdefault(name, 0)
        self.graph.input.append(value_info(name, spec))
        for axis, size in enumerate(spec.shape):
            if isinstance(size, Dim):
                self._computed.note(value, axis, size)
        return value

    def outputs(self, outputs: Sequence[tuple[str, Value, TensorSpec]]) -> dict[str, str]:
        """Declares the graph outputs: a value that a node computes takes the output's name, any other is copied.

        Returns the new names of values that had another one.
        """
        produced = {name for node in self.graph.node for name in node.output}
        renamed: dict[str, str] = {}
        for name, value, spec in outputs:
            self.graph.output.append(value_info(name, spec))
            if value.name in produced and value.name not in renamed:
                renamed[value.name] = name
        clashing = {name for name in renamed.values() if name in produced and name not in renamed}
        renamed.update({name: self._fresh(f"{name}/inner") for name in clashing})
        for node in self.graph.node:
            rename(node, renamed)
        self.specs = {renamed.get(name, name): spec for name, spec in self.specs.items()}
        self.specs.update((name, spec) for name, _, spec in outputs)
        for name, value, _ in outputs:
            current = renamed.get(value.name, value.name)
            if current != name:
                self.graph.node.append(
                    NodeProto(op_type="Identity", name=self._fresh(f"{name}/Identity"), input=[current], output=[name])
                )
        return renamed

    def declare(self, value: Value, spec: TensorSpec) -> None:
        """Writes what a value inside the graph is, where what computes it does not say."""
        self.graph.value_info.append(value_info(value.name, spec))

    def prepend(self, emit: Callable[[], Mapping[str, Value]]) -> None:
        """Puts nodes before all others. `emit` emits them, and says which values the others take in place of which.

        The sizes that it needs are computed there, from the graph's inputs.
        """
        rest, known = self.graph, self._computed
        self.graph, self._computed = GraphProto(), known.afresh()
        try:
            replaced = {name: value.name for name, value in emit().items()}
            for node in rest.node:
                rename(node, replaced)
            self.graph.node.extend(rest.node)
            del rest.node[:]
            rest.node.extend(self.graph.node)
            rest.initializer.extend(self.graph.initializer)
            rest.value_info.extend(self.graph.value_info)
        finally:
            self.graph, self._computed = rest, known

    def begin(self, base: str, result: Any) -> str:
        """Starts the lowering of one op, whose nodes are named after `base`; returns the name it gets."""
        self._base = self._fresh(base)
        self._mark = len(self.graph.node)
        self.result = result
        return self._base

    def finish(self, outputs: Any) -> Any:
        """Ends the lowering of one op: names its nodes and results, and gives the results their specs."""
        added = self.graph.node[self._mark :]
        own = [node for node in added if node.name.startswith(f"{self._base}/")]
        renamed: dict[str, str] = {}
        if len(own) == 1:
            own[0].name = self._base
        produced = {name for node in own for name in node.output}
        results = _leaves(outputs)
        for index, value in enumerate(results):
            if value.name in produced and value.name not in renamed:
                renamed[value.name] = self._base if len(results) == 1 else f"{self._base}.{index}"
        for node in added:
            rename(node, renamed)
        for size, value in self._computed.known.items():
            if value.name in renamed:
                self._computed.known[size] = Value(renamed[value.name])
        named = _with_specs(outputs, self.result, renamed)
        self.specs.update((value.name, value.known) for value in _leaves(named))
        return named

    def _fresh(self, name: str) -> str:
        count = self._names.get(name)
        self._names[name] = (count or 0) + 1
        if count is None:
            return name
        return self._fresh(f"{name}_{count}") if count else self._fresh(f"{name}_1")


def _declaration(value: Value, spec: TensorSpec | None) -> onnx.ValueInfoProto:
    """The declaration of a value of a graph within, which need not say what it is."""
    return onnx.ValueInfoProto(name=value.name) if spec is None else value_info(value.name, spec)


def _with_shape(result: Value, source: Value, shape: Sequence[Size]) -> Value:
    """The result with its spec, where that of what it was computed from is known."""
    return Value(result.name, source.spec.with_shape(*shape)) if source.spec is not None else result


def _leaves(outputs: Any) -> list[Value]:
    """The values in an op's outputs, which may be nested; an absent one is None."""
    if isinstance(outputs, Value) or outputs is None:
        return [] if outputs is None else [outputs]
    return [leaf for output in outputs for leaf in _leaves(output)]


def _with_specs(outputs: Any, result: Any, renamed: Mapping[str, str]) -> Any:
    if isinstance(outputs, Value):
        return replace(outputs, name=renamed.get(outputs.name, outputs.name), spec=result)
    if outputs is None:
        return None
    return tuple(_with_specs(output, spec, renamed) for output, spec in zip(outputs, result, strict=True))


__all__ = ["Emitter", "Value"]
