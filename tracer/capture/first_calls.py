"""The first call of a lazy module in a trace: it gets its sizes, and its eager class, as by a dry run.

A leaf's sizes follow by the rule of its op. A call that is traced through runs the module's forward pre-hooks in
torch's order; in place of the one that initialises the module, what is here infers the sizes, from what the hooks
before it made of the arguments. The traced copy then is what it is after a dry run, with tensors on the meta device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn

from passes.modules.initialisation import Laziness, settle, stand_on
from passes.modules.lazy import (
    LazyLayer,
    awaits_first_input,
    initialising_hook,
    is_lazy,
    is_torch_lazy,
    owns_uninitialized,
)
from passes.modules.watching import infer_by_rule, infer_by_running
from passes.ops.op import find_module
from passes.stages.shape_propagation import given_no_tensor
from tracer.capture.leaf_condition import LeafCondition, Noted
from tracer.memory.recorder import Recorder


class FirstCalls:
    """Gives the lazy modules of a tracer's copy of the model their sizes, each at its first call."""

    def __init__(self, tracer: Recorder, leaves: LeafCondition):
        self._tracer = tracer
        self._leaves = leaves
        self._before: list[tuple[Laziness, Noted]] = []

    def __len__(self) -> int:
        """How many modules have become eager."""
        return len(self._before)

    def undo(self, kept: int = 0) -> None:
        """Makes modules lazy again, all but the first `kept` that became eager."""
        if len(self._before) <= kept:
            return
        with self._tracer.computing():
            while len(self._before) > kept:
                before, noted = self._before.pop()
                before.restore()
                self._leaves.put_back(before.module, noted)

    def awaits(self, module: nn.Module) -> bool:
        """Whether the module waits for its first input, now that everything before it is known."""
        if awaits_first_input(module):
            return True
        if not owns_uninitialized(module):
            return False
        with self._tracer.computing():
            self._tracer.propagator.complete()
        return self._tracer.program.awaits(module)

    def settle_leaf(self, module: nn.Module, node: fx.Node) -> None:
        """Makes a lazy module that has just been called as a leaf eager; one whose call has a fault stays lazy."""
        program = self._tracer.program
        layer = program.lazies.get(program.path(node)) if program.lazies else None
        if layer is not None:
            self.settle(module, layer)

    def settle(self, module: nn.Module, layer: LazyLayer) -> None:
        """Makes a lazy module eager, whose sizes have been inferred; in a block of `computing`, as all that is here."""
        if is_lazy(module):
            before = settle(module, layer.inference)
            self._before.append((before, self._leaves.settled(module)))
            self._tracer.real.await_data(module)

    @contextmanager
    def initialising(self, module: nn.Module, path: str, args: Any, kwargs: Any) -> Iterator[None]:
        """Inside the block a call of the module, traced through, initialises it where it waits for its first input."""
        if not self.awaits(module):
            yield
            return
        key = initialising_hook(module)
        if key is None:
            self._initialise(module, path, args, kwargs, None)
            yield
            return
        hooks, with_kwargs = module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs
        own, takes_kwargs = hooks[key], key in with_kwargs

        def put_back() -> None:
            if key in hooks:
                hooks[key] = own
            if not takes_kwargs:
                with_kwargs.pop(key, None)

        def initialise(module: nn.Module, args: Any, kwargs: Any) -> None:
            put_back()
            self._initialise(module, path, args, kwargs, key)

        hooks[key] = initialise
        with_kwargs[key] = True
        try:
            yield
        finally:
            if hooks.get(key) is initialise:
                put_back()

    def _initialise(self, module: nn.Module, path: str, args: Any, kwargs: Any, hook: int | None) -> None:
        tracer = self._tracer
        with tracer.computing():
            tracer.propagator.complete()  # lazy layers called before this one draw their weights before it
            specs, kwspecs = tracer.specs(args), tracer.specs(kwargs)
            if self._has_rule(module):
                try:
                    layer = infer_by_rule(module, path, specs, kwspecs, tracer.here())
                except AttributeError as error:  # as the module's own initialisation would raise
                    raise given_no_tensor(type(module).__name__, error) or error from error
                tracer.meet(layer)
                self.settle(module, layer)
            else:
                self._before.append((Laziness(module), self._leaves.noted(module)))
                stand_on(module, torch.device("meta"))
                tracer.meet(infer_by_running(module, path, specs, kwspecs, tracer.here(), hook))
                tracer.real.await_data(module)
                tracer.note(path, module)

    def _has_rule(self, module: nn.Module) -> bool:
        """Whether an op's rule says what the module's own initialisation makes of it."""
        found = find_module(type(module)) if is_torch_lazy(module) else None
        return (
            found is not None
            and type(module) in found[0].inference_rules
            and self._leaves.initialises_as_its_class(module)
        )
