"""An op that is composed of others: one definition, from which its shape rule and its lowering follow. Registers none.

    @composed(hinge)
    def hinge_of(do: Do, call: Hinge[Any]) -> Any:
        return do(torch.clamp_min, do(torch.sub, call.margin, call.input), 0)

`do` calls an op by one of its spellings: a function, or the name of a tensor's method. It is given specs where the
result's spec is asked, and values where the op is lowered; both have a shape and a dtype. So dtypes, broadcasting and
refusals are those of the parts, as they are in torch where it composes the operation in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from passes.onnx.value import Value
from passes.ops.op import FUNCTIONS, Op, find_method
from passes.ops.record import Record
from passes.values.nested import map_structure
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter

Definition = TypeVar("Definition", bound=Callable[..., Any])


class Do(Protocol):
    """Calls an op by one of its spellings (see the module's docstring)."""

    def __call__(self, spelling: Callable[..., Any] | str, *args: Any, **kwargs: Any) -> Any: ...


def composed(op: Op) -> Callable[[Definition], Definition]:
    """Declares the shape rule and the lowering of an op by what it is composed of."""

    def declare(definition: Definition) -> Definition:
        op.shape(lambda call: definition(on_specs, call))
        op.lower(lambda emit, call: definition(on_values(emit), call))
        return definition

    return declare


def on_specs(spelling: Callable[..., Any] | str, *args: Any, **kwargs: Any) -> Any:
    """The spec of a call's result."""
    op, record = _bound(spelling, args, kwargs)
    assert op.shape_rule is not None
    return op.shape_rule(record)


def on_values(emit: Emitter) -> Do:
    """What lowers calls into a graph; their results are values with specs."""

    def lowered(spelling: Callable[..., Any] | str, *args: Any, **kwargs: Any) -> Any:
        op, record = _bound(spelling, args, kwargs)
        assert op.shape_rule is not None
        assert op.lowering is not None, f"{op} has no lowering, and cannot be a part"
        whole, emit.result = emit.result, op.shape_rule(_map_values(record, lambda value: value.known))
        try:
            return _with_specs(op.lowering(emit, record), emit.result)
        finally:
            emit.result = whole

    return lowered


def _bound(spelling: Callable[..., Any] | str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Op, Any]:
    found = find_method(spelling) if isinstance(spelling, str) else FUNCTIONS.get(spelling)
    assert found is not None, f"{spelling} is no spelling of an op"
    op, adapter = found
    return op, op.bind(args, kwargs, adapter)


def _map_values(record: Record[Any], leaf: Callable[[Value], Any]) -> Any:
    """The record with `leaf(it)` in place of each value of the graph."""
    fields = record.named()
    return type(record)(**map_structure(fields, lambda item: leaf(item) if isinstance(item, Value) else item))


def _with_specs(outputs: Any, specs: Any) -> Any:
    if isinstance(specs, TensorSpec):
        return replace(outputs, spec=specs)
    return tuple(_with_specs(output, spec) for output, spec in zip(outputs, specs, strict=True))


__all__ = ["Do", "composed", "on_specs", "on_values"]
