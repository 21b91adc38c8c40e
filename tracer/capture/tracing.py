"""A forward traced module by module: which calls are one node, which are followed, and what a failed one undoes."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils.rnn import PackedSequence

from passes.errors import CaptureError, InputError, NeedsDataError, SideEffectError, TracerError, noted_errors
from passes.isolation.frames import forget_frames
from passes.isolation.holders import MISSING, release
from passes.isolation.torch_state import undisturbed
from passes.modules.explicit_state import held_at, holds_any
from passes.modules.lazy import LazyLayer, is_lazy, own_tensors
from passes.program.notes import FAULT, VALUE
from passes.program.program import Rung
from passes.program.stages import Captured
from passes.sizes.guards import GuardLog, Location
from passes.stages.meta_execution import MetaRunError, run_module
from passes.values.nested import holds_the_same, leaves
from tracer.capture.environment import as_ever, as_traced, tracing_environment
from tracer.capture.faults import caught, explained
from tracer.capture.first_calls import FirstCalls
from tracer.capture.graph_recording import GraphRecorder
from tracer.capture.leaf_condition import LeafCondition
from tracer.capture.values.aliasing import refuse_unfollowed
from tracer.capture.values.namespaces import Namespaces
from tracer.capture.values.number import TracedNumber
from tracer.capture.values.packed_sequences import PackedCall, given_packed
from tracer.capture.values.tensor import TracedTensor
from tracer.edge.source_lines import current_source
from tracer.inputs.sample import Sample
from tracer.memory.real_tensors import RealTensors, with_written


@undisturbed
def capture(model: nn.Module, sample: Sample, log: GuardLog) -> Captured:
    """Traces `model` symbolically from the sample's specs; the model itself is not touched.

    A submodule that cannot be traced becomes one opaque node, followed on meta tensors (`Program.rungs`).
    Raises CaptureError where the model's own forward cannot be traced, NeedsDataError where a submodule
    cannot run on meta tensors either, and any error of shapes that a question in the forward brings to light.
    """
    namespaces = Namespaces()
    while True:
        try:
            captured = CapturingTracer(model, sample, log, namespaces).capture()
        except TracerError:
            if not namespaces.grow():
                raise
        else:
            if not namespaces.grow():
                return captured
        log.forget()


@dataclass(frozen=True, slots=True)
class _Mark:
    """How far a capture had come, to go back to."""

    last: fx.Node | None
    rebound: int
    unpacked: int
    rungs: int
    attributes: int
    lazies: int
    inferred: int
    draws: int
    settled: int
    made: int
    signals: int


class CapturingTracer(GraphRecorder):
    """Follows a forward module by module.

    Leaves are the modules that an op covers, while their call is their class's own (`leaf_condition.py`). All others
    are traced through, those of torch.nn too: a transformer is its layers, and a layer its parts. So is a covered
    module with hooks of the caller's, so that the hooks take part, and a lazy module, once it has its sizes.
    """

    def __init__(self, model: nn.Module, sample: Sample, log: GuardLog, namespaces: Namespaces) -> None:
        super().__init__(model, sample, log, namespaces)
        self._module_call = nn.Module.__call__
        self.leaves = LeafCondition(self._any_written)
        self._first_calls = FirstCalls(self, self.leaves)
        for module in self._model.unique_modules.values():
            self.leaves.note(module)
        self._paths: list[str] = [""]
        self._signals: list[TracerError] = []

    def capture(self) -> Captured:
        try:
            self._trace()
            self._first_calls.undo()
        except (Exception, SystemExit) as error:
            fault = explained(error, self)
            fault.program = self.program
            raise fault from error
        program = self.program
        used = {node.target for node in self.graph.nodes if node.op == "get_attr"}
        program.constants = {name: program.tensor(name) for name in self.constants if name in used}
        return program

    def _trace(self) -> None:
        """Traces the copy, and leaves nothing traced behind, whatever happens."""
        holders: list[str] = []
        failed = False
        try:
            try:
                with (
                    self._model.unwritten(),
                    tracing_environment(self, self.namespaces),
                    noted_errors() as self._signals,
                ):
                    self.trace(self._model.copy)
                    refuse_unfollowed(self.program.output())
                fault = caught(self._signals)
                if fault is not None:
                    raise fault
                self._forget_unused()
                self._model.check_untouched()
            except BaseException as error:
                failed = True
                forget_frames(error)
                raise
            finally:
                self.program.left_behind = self._left_behind()
                forget_frames(*self._signals, *(FAULT.get(node) for node in self.graph.nodes))
                self._model.put_back(self.program.held)
                self.program.held = {}
                self._forget_values()
                read = dict(self.program.read)
                holders = self._let_go(named=not failed)
                self.program.read = read  # what is computed to let go of values decides nothing
        finally:
            self._let_go(named=False)  # once more, where an interrupt met the first
        if holders:
            raise SideEffectError(
                f"the forward leaves what it computes in {', '.join(holders)}, which outlives the call",
                remedy="keep it in an attribute of the model, or return it",
            ).placed(self._model.place())

    def _forget_values(self) -> None:
        """Lets go of the traced values that are kept here."""
        self._signals = []
        self._attributes, self._rebound, self.unpacked = {}, [], []
        self.real = RealTensors(self)

    def _left_behind(self) -> list[str]:
        """The tensors and attributes of the model that the forward has written."""
        written = [path for path, tensor in self._attributes.items() if tensor.node.op != "get_attr"]
        held = self._model.holders(self.real.is_written) if self.real.writes_any else []
        held += self._model.changes(self.program.lazies)
        written += [path for path in held if path not in self.constants]
        return list(dict.fromkeys([*self.program.left_behind, *written]))

    def _let_go(self, since: int = 0, named: bool = True) -> list[str]:
        """Takes the values made since then out of what still holds them; who held one that depends on an input, where
        that is to be `named`.

        Raises SideEffectError where something is left that nobody can be made to let go.
        """
        alive = self._alive(since)
        if alive:
            alive.clear()
            gc.collect(0)  # the collector pauses while a model is worked on: all that is new is young
            alive = self._alive(since)
        if not alive:
            return []
        passing = {id(own) for own in (*self._model.modules.values(), *self._model.made)}
        return release(alive, self._real, passing, named)

    def _alive(self, since: int) -> list[Any]:
        return [value for made in self.made[since:] if (value := made()) is not None]

    def _real(self, value: Any) -> Any:
        """What eager PyTorch would have in the place of a traced value, or MISSING where that depends on an input."""
        if type(value) is TracedNumber:
            return value.now() if value.is_known() and not value.is_open else MISSING
        if type(value) is not TracedTensor:
            return MISSING
        try:
            if value.node.op == "get_attr":
                return self.program.tensor(str(value.node.target))
            found = self.known.tensor(value.node)
        except Exception:  # torch may refuse to compute it in any way
            return MISSING
        return MISSING if found is None else found

    def _forget_unused(self) -> None:
        """Erases what was read of lazy layers before their call, and used for nothing but questions."""
        for node in reversed(self.graph.nodes):
            if node.op == "get_attr" and not node.users:
                self.graph.erase_node(node)

    # Module calls -------------------------------------------------------------------------------

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if not self.recording:
            return forward(*args, **kwargs)
        path = self._model.path_of_module(m)
        if path is None:
            return self._outside_call(m, args, kwargs)
        self._paths.append(path)
        try:
            with as_ever():
                is_leaf = self.leaves.holds(m, args, kwargs)
            if is_leaf:
                return self._leaf_call(m, path, args, kwargs)
            with self._first_calls.initialising(m, path, args, kwargs):
                if m is self._model.copy:
                    return self._module_call(m, *args, **kwargs)
                return self._traced_call(m, path, args, kwargs)
        finally:
            self._paths.pop()

    def _outside_call(self, m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A module that is no submodule: traced through, as a function of whose forward calls it."""
        with as_ever():
            lazy = any(is_lazy(part) for part in m.modules())
            native = isinstance(m, torch.jit.ScriptModule)
        if lazy or native:
            place = self._model.place_of(m)
            raise CaptureError(
                f"the forward calls a {type(m).__name__} that is not a submodule of the model"
                + (f", but held in {place}" if place else ""),
                remedy="assign it to an attribute of the model in __init__, or keep it in an nn.ModuleList or "
                "nn.ModuleDict",
            )
        return self._module_call(m, *args, **kwargs)

    def _leaf_call(self, m: nn.Module, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if m is self._model.copy:
            path = self.program.whole = "model"
        packed = given_packed(args, kwargs)
        if packed is not None:
            return self._packed_call(m, path, packed, *args[1:], **{k: v for k, v in kwargs.items() if k != "input"})
        inplace = getattr(m, "inplace", False)
        if inplace:
            place: int | str = 0 if args else "input"
            args, kwargs = with_written(self, place, args, kwargs)
        result = self._called(m, path, args, kwargs)
        if not inplace:
            return result
        written = args[0] if args else kwargs["input"]
        self.aliases.write(written, result.node)
        return written

    def _packed_call(self, net: nn.Module, path: str, packed: PackedSequence, *args: Any, **kwargs: Any) -> Any:
        call = PackedCall(self, packed, *args, **kwargs)
        return call.result(self._called(net, path, call.arguments, {}))

    def _called(self, m: nn.Module, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = self.create_proxy("call_module", path, args, kwargs)
        with self.computing():
            self.propagator.advance(result.node)  # with the attributes that the module has now
            self._first_calls.settle_leaf(m, result.node)
        return result

    def _traced_call(self, m: nn.Module, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The submodule's forward, traced; or, where that fails, the submodule as one node on meta tensors."""
        before, given = self._mark(), self._held_by(args, kwargs)
        try:
            return self._module_call(m, *args, **kwargs)
        except (Exception, SystemExit) as error:
            first = caught(self._signals[before.signals :], error)
            fault = explained(error, self) if first is None else first.placed(self.here())
            if (
                type(fault) is not CaptureError
                or fault.caught
                or not holds_the_same(given, self._held_by(args, kwargs))
            ):
                raise fault from error  # what a container was given cannot be taken back
            forget_frames(error)
        self._roll_back(before)
        return self._opaque_call(path, args, kwargs, fault)

    def _opaque_call(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any], fault: CaptureError) -> Any:
        location = fault.location or self.here()
        original = self._model.original.get_submodule(path)
        if holds_any(original, [held_at(self._model.original, kept) for kept in self.program.kept]):
            raise fault  # what becomes of those a node, whose result is all that is known of it, does not say
        with self.computing():
            try:
                result = run_module(original, path, self.specs(args), self.specs(kwargs), self.log, location)
            except MetaRunError as error:
                needs_data = NeedsDataError(fault.message, remedy=fault.remedy)
                raise needs_data.placed(location, chain=fault.chain) from error
        if result.writes_arguments:
            raise fault  # nor what becomes of these
        node = self.create_node("call_module", path, self.create_arg(args), self.create_arg(kwargs))
        VALUE.put(node, result.value)
        for layer in result.lazies:
            self.meet(layer)
            with self.computing():
                self._first_calls.settle(self._model.modules[layer.path], layer)
        self.program.left_behind += result.left_behind
        self.program.rungs.append(Rung(path, "meta", fault.message, location, fault.remedy))
        return self.proxy(node)

    def _held_by(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """What a call is given; the containers themselves where one does not open, and so is no argument of a node."""
        signals = len(self._signals)
        try:
            with as_traced():  # a registered class opens itself with code of its own
                return list(leaves((args, kwargs)))
        except InputError:
            del self._signals[signals:]
            return [*args, *kwargs.values()]

    def note(self, path: str, module: nn.Module) -> None:
        """Notes what a module of the model is, and by which path the graph names its own tensors."""
        self._model.note(path, module)
        self.leaves.note(module)

    def meet(self, layer: LazyLayer) -> None:
        """Notes a lazy layer whose tensors have moved to the meta device in our copy of the model."""
        declared = {name: tensor.device for name, tensor in own_tensors(self._model.original.get_submodule(layer.path))}
        self.program.meet_lazy(layer, declared)

    def _any_written(self, tensors: list[torch.Tensor]) -> bool:
        return bool(self._attributes) and any(map(self._is_written, tensors))

    def _is_written(self, tensor: torch.Tensor) -> bool:
        """Whether the forward has written to one of the model's tensors."""
        path = self.path_of_tensor(tensor) or ""
        value = self._attributes.get(path)
        return value is not None and (value.node.op, value.node.target) != ("get_attr", path)

    def here(self) -> Location:
        return Location(self._paths[-1], current_source(CapturingTracer.capture.__code__))

    # Going back ---------------------------------------------------------------------------------

    def _mark(self) -> _Mark:
        program = self.program
        with self.computing():
            self.propagator.complete()  # so that what is met from here on belongs to what may be forgotten
        last = next(iter(reversed(self.graph.nodes)), None)
        return _Mark(
            last,
            len(self._rebound),
            len(self.unpacked),
            len(program.rungs),
            len(self._attributes),
            len(program.lazies),
            len(program.inferred),
            len(program.draws),
            len(self._first_calls),
            len(self.made),
            len(self._signals),
        )

    def _roll_back(self, mark: _Mark) -> None:
        """Forgets everything that was recorded since `mark`."""
        del self._signals[mark.signals :]
        self._attributes = _first(mark.attributes, self._attributes)
        for whole, place in self.unpacked[mark.unpacked :]:
            whole.forget(place)
        del self.unpacked[mark.unpacked :]
        since = list(takewhile(lambda node: node is not mark.last, reversed(self.graph.nodes)))
        self.real.forget(since)
        self._let_go(mark.made, named=False)
        while len(self._rebound) > mark.rebound:
            tensor, node = self._rebound.pop()
            tensor.node = node
        for node in since:
            self.graph.erase_node(node)
        self.regions.erase(since)
        program = self.program
        del program.rungs[mark.rungs :]
        program.lazies = _first(mark.lazies, program.lazies)
        program.inferred = _first(mark.inferred, program.inferred)
        del program.draws[mark.draws :]
        self._first_calls.undo(mark.settled)
        self._found_propagator = None


def _first(count: int, table: dict[Any, Any]) -> dict[Any, Any]:
    """The entries that were the first to be made in a table where none is taken out."""
    return dict(islice(table.items(), count))
