"""What a lazy module is fed, and what it becomes, as its own code says when it is called."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from passes.errors import LazyResolutionError
from passes.modules.initialisation import meta_inputs, run_own_initialisation
from passes.modules.lazy import LazyLayer, initialising_hook, is_lazy, is_uninitialized, own_tensors, owns_uninitialized
from passes.ops.op import Inference, Owned, find_module
from passes.sizes.dimension import Size
from passes.sizes.guards import Location
from passes.values.nested import map_structure
from passes.values.spec import TensorSpec, describe


class Observation:
    """Watches one lazy module become initialised, and says what its sizes became."""

    def __init__(
        self, module: nn.Module, path: str, args: Any, kwargs: Any, location: Location, hook: int | None = None
    ):
        self._module = module
        self._layer = LazyLayer(path, type(module).__name__, args, kwargs, Inference({}, {}), location, hook)
        self._waiting = [name for name, tensor in own_tensors(module) if is_uninitialized(tensor)]
        self._before = stated_sizes(module)

    def layer(self) -> LazyLayer:
        """The layer with its sizes. Raises LazyResolutionError where the module is still uninitialised."""
        if owns_uninitialized(self._module):
            raise LazyResolutionError(
                f"{self._layer.type} is still uninitialised after its forward pre-hooks",
                remedy="initialise it in a forward pre-hook, as torch.nn's lazy modules do",
            ).placed(self._layer.location)
        attributes: dict[str, Size] = {
            name: size for name, size in stated_sizes(self._module).items() if self._before.get(name) != size
        }
        tensors = dict(own_tensors(self._module))
        shapes: dict[str, tuple[Size, ...]] = {name: tuple(tensors[name].shape) for name in self._waiting}
        return replace(self._layer, inference=Inference(attributes, shapes))


def infer_by_rule(module: nn.Module, path: str, args: Any, kwargs: Any, location: Location) -> LazyLayer:
    """What the first call of a lazy module of torch.nn, with specs, makes of its sizes; the module is not touched.

    Raises any error of shapes that its op's rule finds.
    """
    found = find_module(type(module))
    assert found is not None, f"no op covers {type(module).__name__}"
    op, bind_module = found
    rule = op.inference_rules[type(module)]
    given = bind_module(module, *args, **kwargs)
    known = {name: None if isinstance(value, Owned) else value for name, value in given.items()}
    inference = rule(module, op.bind((), known))
    hook = initialising_hook(module)
    return LazyLayer(path, type(module).__name__, args, kwargs, inference, location, hook, by_rule=True)


def infer_by_running(
    module: nn.Module, path: str, args: Any, kwargs: Any, location: Location, hook: int | None = None
) -> LazyLayer:
    """Initialises `module`, which must live on the meta device, from specs, and says what its sizes became.

    `hook` is the key of the forward pre-hook that does it; without one, all run until it is done.

    Raises LazyResolutionError where its own code fails, or leaves it lazy.
    """
    observation = Observation(module, path, args, kwargs, location, hook)
    try:
        run_own_initialisation(module, meta_inputs(args), meta_inputs(kwargs), hook)
    except (Exception, SystemExit) as error:  # the initialisation is the caller's code
        raise LazyResolutionError(
            f"{type(module).__name__} cannot initialise itself from {describe(args)}: {type(error).__name__}: {error}",
            remedy="check what the layer is fed",
        ).placed(location) from error
    return observation.layer()


def watch_lazies(root: nn.Module, prefix: str, found: list[LazyLayer], location: Location) -> None:
    """Makes a run of `root` add its lazy modules to `found`, each when its first call has initialised it.

    Paths begin with `prefix`, the path of `root` in the whole model.
    """
    for name, module in list(root.named_modules()):
        if is_lazy(module):
            _watch(module, ".".join(filter(None, (prefix, name))), found, location)


def _watch(module: nn.Module, path: str, found: list[LazyLayer], location: Location) -> None:
    started: list[Observation] = []

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        if not started:
            started.append(Observation(module, path, as_specs(args), as_specs(kwargs), location))

    def after(module: nn.Module, args: Any, kwargs: Any) -> None:
        if path not in {layer.path for layer in found}:
            found.append(started[0].layer())

    module.register_forward_pre_hook(before, with_kwargs=True, prepend=True)
    module.register_forward_pre_hook(after, with_kwargs=True)


def as_specs(value: Any) -> Any:
    """A structure of tensors as specs."""
    return map_structure(
        value, lambda leaf: TensorSpec(tuple(leaf.shape), leaf.dtype) if isinstance(leaf, torch.Tensor) else leaf
    )


def stated_sizes(module: nn.Module) -> dict[str, int]:
    """The whole numbers that a module keeps as attributes: its sizes are among them."""
    return {name: value for name, value in module.__dict__.items() if type(value) is int}


__all__ = ["Observation", "as_specs", "infer_by_rule", "infer_by_running", "stated_sizes", "watch_lazies"]
