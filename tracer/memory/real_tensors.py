"""Real tensors of a forward: literals, plain attributes, globals. They enter the graph as constants.

A real tensor that is written in place while the forward is traced is followed from there on like a traced one: nothing
of the write happens to its memory, and every later use of it, or of any view of that memory, sees the write. So what
is traced is never lost, and the caller's own tensors stay as they are.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import fx, nn
from torch.overrides import TorchFunctionMode

from passes.errors import CaptureError
from passes.modules.lazy import is_uninitialized, own_tensors
from passes.ops.op import is_inplace
from passes.ops.parts import strided
from passes.torch_private import without_overrides
from passes.values.nested import leaves, map_structure
from tracer.memory.handed_over import with_all_arguments
from tracer.memory.recorder import Recorder
from tracer.memory.writing_functions import spelled_out

# Methods with the name of an in-place one that write nothing.
_WRITING_NOTHING = frozenset({"requires_grad_", "share_memory_", "rename_", "retain_grad_", "detach_"})
_WRITING_OPERATORS = frozenset(
    {"__setitem__", "__delitem__"}
    | {f"__i{name}__" for name in ("add", "sub", "mul", "div", "truediv", "floordiv", "mod", "pow")}
    | {f"__i{name}__" for name in ("and", "or", "xor", "lshift", "rshift", "matmul")}
)


@dataclass(frozen=True, slots=True)
class _Entered:
    """A real tensor in the graph: the node that gives it, and what stands for it, which a write moves on."""

    tensor: torch.Tensor
    traced: fx.Proxy
    node: fx.Node


class RealTensors:
    """What real tensors are in the graph: each a constant of its own, until something is written to their memory."""

    def __init__(self, tracer: Recorder):
        self._tracer = tracer
        self._entered: dict[int, _Entered] = {}
        self._by_traced: dict[int, _Entered] = {}
        self._memory: dict[int, _Entered] = {}
        self._owned: dict[int, tuple[str, torch.Tensor]] | None = None
        self._written: set[int] = set()
        self._without_data: set[int] = set()
        self._replaced: dict[int, str] = {}
        self._awaiting: list[torch.Tensor] = []  # those whose memory is still to be asked for: most never are

    def await_data(self, module: nn.Module) -> None:
        """What is done with the module's tensors from here on is traced: they have their sizes, and get data later."""
        self._awaiting += [tensor for _, tensor in own_tensors(module)]

    def replace(self, path: str, tensor: torch.Tensor) -> None:
        """Notes that a traced tensor stands in the place of a tensor of the model, which nothing may use now."""
        key = memory_of(tensor)
        if key is not None:
            self._replaced[key] = path

    def check_in_place(self, tensor: torch.Tensor) -> None:
        """Raises CaptureError for a tensor in whose place another stands."""
        path = self._replaced.get(memory_of(tensor) or 0) if self._replaced else None
        if path is not None:
            error = CaptureError(
                f"the forward uses {path}, which is to be an input, otherwise than as an attribute of its module",
                remedy=f"read it there, as self.{path.rpartition('.')[2]}, each time that it is used",
            )
            error.caught = True  # by no other way of following the forward would it be an input there
            raise error

    @property
    def writes_any(self) -> bool:
        """Whether the forward has written to a real tensor."""
        return bool(self._written)

    def is_written(self, tensor: torch.Tensor) -> bool:
        """Whether the forward has written to the memory of a real tensor."""
        return memory_of(tensor) in self._written

    def traced(self, tensor: torch.Tensor) -> fx.Proxy:
        """The tensor as one of the graph.

        Raises CaptureError for a view of written memory that cannot be named, and for a tensor that is replaced.
        """
        self.check_in_place(tensor)
        path = self._tracer.path_of_tensor(tensor)
        if path is not None:
            return self._tracer.attribute(path, tensor)
        known = self._entered.get(id(tensor))
        if known is not None:
            return known.traced
        base = self._memory.get(memory_of(tensor) or 0)
        if base is not None:
            return self.enter(tensor, self._seen(tensor, base.tensor, base.traced)).traced
        return self.enter(tensor, self._tracer.proxy(self._tracer.constant(tensor))).traced

    def enter(self, tensor: torch.Tensor, traced: fx.Proxy) -> _Entered:
        """Notes what stands for a real tensor."""
        entered = _Entered(tensor, traced, traced.node)
        self._entered[id(tensor)] = self._by_traced[id(traced)] = entered
        return entered

    def before_write(self, roots: Iterable[fx.Node]) -> None:
        """Sees to it that real tensors which share the memory of one of these nodes are views of one constant."""
        for root in roots:
            if root.op != "get_attr":
                continue
            key = memory_of(self._tracer.program.tensor(str(root.target)))
            if key is not None and key not in self._memory:
                self._unite(key)

    def _unite(self, key: int) -> None:
        sharing = [entered for entered in list(self._entered.values()) if memory_of(entered.tensor) == key]
        owner = self._owners().get(key)
        if owner is not None:
            self._tracer.attribute(*owner)
            base = self._entered[id(owner[1])]
        else:
            whole = next((entered for entered in sharing if _is_whole(entered.tensor)), None)
            if whole is None:
                tensor = _all_of(sharing[0].tensor)
                whole = self.enter(tensor, self._tracer.proxy(self._tracer.constant(tensor)))
            base = whole
        # What is known to the forward may become another view of the memory; this one stays all of it.
        hidden: Any = fx.Proxy(base.node, self._tracer)
        hidden = self._tracer.create_proxy("call_function", getattr, (hidden, "data"), {})
        self._memory[key] = _Entered(base.tensor, hidden, base.node)
        for entered in sharing:
            if entered is not base:
                view = self._seen(entered.tensor, base.tensor, hidden)
                self._tracer.aliases.are_same(entered.node, view.node)

    def moved(self, traced: fx.Proxy) -> None:
        """Notes that a traced tensor has become another; the real one that it stood for is followed from here on."""
        found = self._by_traced.get(id(traced))
        key = memory_of(found.tensor) if found is not None else None
        if key is not None:
            self._written.add(key)

    def followed(self, value: Any) -> Any:
        """The value with what stands for it in place of each real tensor whose memory has been written to."""
        if not self._follows:
            return value
        return map_structure(value, lambda leaf: self.traced(leaf) if self._is_followed(leaf) else leaf)

    def follows_any(self, value: Any) -> bool:
        return self._follows and any(map(self._is_followed, leaves(value)))

    @property
    def _follows(self) -> bool:
        return bool(self._written or self._without_data or self._awaiting or self._replaced)

    def forget(self, nodes: Iterable[fx.Node]) -> None:
        """Forgets what stands on nodes that are to be erased."""
        erased = set(nodes)
        for table in (self._entered, self._by_traced, self._memory):
            for key, entered in list(table.items()):
                if entered.node in erased:
                    del table[key]
        self._written &= {memory_of(entered.tensor) or 0 for entered in self._entered.values()}

    def _is_followed(self, leaf: Any) -> bool:
        if not _is_real(leaf):
            return False
        if self._awaiting:
            with without_overrides():
                keys = {memory_of(tensor) for tensor in self._awaiting if tensor.is_meta}
            self._without_data |= {key for key in keys if key is not None}
            self._awaiting = []
        key = memory_of(leaf)
        return key in self._written or key in self._without_data or key in self._replaced

    def _seen(self, tensor: torch.Tensor, base: torch.Tensor, traced: fx.Proxy) -> fx.Proxy:
        """A real tensor as the view that it is of another one's memory."""
        with without_overrides():
            same_kind, whole = tensor.dtype == base.dtype, _is_whole(base)
            flat, size, stride = base.numel(), tuple(tensor.shape), tuple(tensor.stride())
            offset = tensor.storage_offset() - base.storage_offset()
            same = size == tuple(base.shape) and stride == tuple(base.stride()) and offset == 0
            packed, numel = tensor.is_contiguous(), tensor.numel()
        if not same_kind or not (same or whole):
            raise CaptureError(
                "the forward writes to a real tensor that shares memory with another in a way that cannot be followed",
                remedy="clone the tensor before it is written to",
            )
        found: Any = traced.data
        if not same:
            found = found.view((flat,))
            if not packed:
                found = self._tracer.create_proxy("call_function", strided, (found, size, stride, offset), {})
            elif numel == flat:
                found = found.view(size)
            else:
                found = found.narrow(0, offset, numel).view(size)
        view: fx.Proxy = found
        return view

    def _owners(self) -> dict[int, tuple[str, torch.Tensor]]:
        """The model's own tensors by their memory."""
        if self._owned is None:
            self._owned = {}
            for path, module in self._tracer.program.modules.items():
                for name, tensor in own_tensors(module):
                    full = f"{path}.{name}" if path else name
                    real = self._tracer.program.held.get(full, tensor)
                    key = memory_of(real) if _is_real(real) else None
                    if key is not None and (key not in self._owned or not _is_whole(self._owned[key][1])):
                        self._owned[key] = full, real
        return self._owned


class FollowingReal(TorchFunctionMode):
    """While tracing, operations on real tensors run as ever, but for those that write to one, or use one after that.

    `record` makes an operation one of the graph, `run` decides of any other that torch is called for.
    """

    def __init__(self, tracer: Recorder, record: Callable[..., Any], run: Callable[..., Any]):
        super().__init__()
        self._tracer = tracer
        self._record = record
        self._run = run

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = with_all_arguments(func, kwargs or {})
        tracer = self._tracer
        if not tracer.recording or func.__name__ in _ANY_WAY:
            return func(*args, **kwargs)
        spelled = spelled_out(func, args, kwargs)
        if spelled is not None:
            with self:
                return spelled()
        real = tracer.real
        place = written_place(func, args, kwargs)
        if place is not None and any(map(_is_real, leaves(_at(place, args, kwargs)))):
            args, kwargs = with_written(tracer, place, args, kwargs)
            return self._record(func, (), real.followed(args), real.followed(kwargs))
        if real.follows_any((args, kwargs)):
            return self._record(func, (), real.followed(args), real.followed(kwargs))
        return self._run(tracer, func, args, kwargs)


# What says nothing of a tensor's data.
_ANY_WAY = frozenset({"__repr__", "__format__", "__hash__", "__dir__", "__reduce_ex__", "requires_grad_"})


def written_place(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int | str | None:
    """Which argument a call writes to: a position or a keyword; None where it writes to none."""
    if kwargs.get("out") is not None:
        return "out"
    name = func.__name__
    writes = (is_inplace(name) and name not in _WRITING_NOTHING) or name in _WRITING_OPERATORS
    if name == "__set__":
        writes = func.__self__.__name__ in ("data", "real", "imag")  # type: ignore[attr-defined]
    if not writes:
        place = _inplace_position(func)
        if place is None:
            return None
        if not kwargs.get("inplace", len(args) > place and args[place]):
            return None
    if args:
        return 0
    known = next((name for name in ("input", "self") if name in kwargs), None)
    if known is None:
        raise CaptureError(f"the forward writes in place by {name}", remedy="compute a new tensor in its place")
    return known


@cache
def _inplace_position(func: Callable[..., Any]) -> int | None:
    """Where a function takes its argument `inplace`; None where it has none."""
    try:
        names = list(inspect.signature(func).parameters)
    except (TypeError, ValueError):  # native code does not say
        return None
    return names.index("inplace") if "inplace" in names else None


def _at(place: int | str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return args[place] if isinstance(place, int) else kwargs[place]


def with_written(
    tracer: Recorder, place: int | str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with what stands for it in the graph in place of a real tensor that is written to."""
    written = _at(place, args, kwargs)
    if issubclass(_type(written), fx.Proxy):
        return args, kwargs
    target = map_structure(written, lambda leaf: tracer.real.traced(leaf) if _is_real(leaf) else leaf)
    if isinstance(place, int):
        return (*args[:place], target, *args[place + 1 :]), kwargs
    return args, {**kwargs, place: target}


_type = type  # Python's own, also while a forward is traced


def _is_real(leaf: Any) -> bool:
    return issubclass(_type(leaf), torch.Tensor)


def memory_of(tensor: torch.Tensor) -> int | None:
    """What tells one tensor's memory from another's; None for a tensor that has none of its own."""
    with without_overrides():  # these questions are ours
        if is_uninitialized(tensor) or tensor.layout is not torch.strided:
            return None
        storage = tensor.untyped_storage()
        return int(storage.data_ptr() or storage._cdata)  # numpy's arrays share memory, not storages


def _is_whole(tensor: torch.Tensor) -> bool:
    """Whether a tensor is all of its memory, in order."""
    with without_overrides():
        size = tensor.untyped_storage().nbytes()
        return tensor.is_contiguous() and tensor.numel() * tensor.element_size() == size


def _all_of(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor's memory, as a vector."""
    with without_overrides():
        storage = tensor.untyped_storage()
        size = storage.nbytes() // tensor.element_size()
        return torch.Tensor.set_(torch.Tensor.new_empty(tensor, 0), storage, 0, (size,), (1,))


__all__ = ["FollowingReal", "RealTensors", "memory_of", "with_written", "written_place"]
