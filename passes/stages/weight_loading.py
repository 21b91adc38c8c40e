"""Every lazy module gets its weights from a checkpoint instead of drawing them.

The loading itself is torch's `load_state_dict`, with the model's own hooks and overrides. It writes into the target's
tensors: one whose memory is another model's is guarded by who makes it (`passes/isolation/copy_on_write.py`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from passes.errors import LazyResolutionError, LoadError
from passes.isolation.model_copy import copy_model
from passes.modules.initialisation import end_laziness, meta_inputs, run_own_initialisation, stand_on
from passes.modules.lazy import LazyLayer, awaits_first_input, is_lazy, is_uninitialized, own_tensors
from passes.printable import printable
from passes.program.stages import Shaped
from passes.stages.loading_code import loading_code
from passes.stages.private_memory import give_memory, holds_nothing
from passes.values.spec import shape_text

META = torch.device("meta")


@dataclass(slots=True)
class WeightLoading:
    """The pass: the tensors of `target` become what its `load_state_dict` makes of `weights`; nothing is drawn.

    The sizes of lazy modules are those that the sample gives. `target` has the structure of the captured model; its
    tensors get memory of their own first, so that a model that shares them keeps its own. What the weights hold of
    lazy modules that the sample never reaches is loaded as torch does it, and may be missing. The number of changes
    is the number of lazy modules resolved.

    Raises LoadError where keys or shapes do not fit, or a value that the forward reads is another than the model's;
    LazyResolutionError where checkpoint and sample disagree.
    """

    target: nn.Module
    weights: Mapping[str, Any]
    name: str = "weight loading"
    takes: type[Shaped] = Shaped

    def run(self, program: Shaped) -> tuple[Shaped, int]:
        declared: dict[int, torch.device] = {}
        read = {key: tensor.clone() for key, tensor in program.read.items()}  # may have the target's memory
        with torch.random.fork_rng(devices=[]):
            for layer in program.lazies.values():
                module = self.target.get_submodule(layer.path)
                declared.update((id(tensor), tensor.device) for _, tensor in own_tensors(module))
                _give_sizes(layer, module)
        give_memory(self.target, lambda tensor: declared.get(id(tensor), META))
        _Loading(self.target, self.weights, set(program.unreached), list(program.lazies.values())).run()
        if not loading_code(self.target):  # else the loaded model is captured anew
            _check_decisions(read, self.target)
        return program, len(program.lazies)


def load_without_sample(target: nn.Module, weights: Mapping[str, Any]) -> None:
    """Loads a state_dict into a model without knowing what it is fed.

    Lazy modules take the shapes of their tensors, as in torch. Those of torch.nn become eager, with the sizes that
    follow from these; others, and a norm without tensors, take their first input for what else they need. Raises
    LoadError where keys or shapes do not fit.
    """
    lazies = [(path, module) for path, module in target.named_modules() if is_lazy(module)]
    outlines = [(path, module, copy_model(module, META)) for path, module in lazies if _is_initialised_by_torch(module)]
    _Loading(target, weights).run()
    for path, module, outline in outlines:
        _become_eager(path, module, outline)


def load_in_place(model: nn.Module, weights: Mapping[str, Any], unreached: Collection[str] = ()) -> None:
    """Runs the model's own loading code on itself, after it has gone well on a copy."""
    _Loading(model, weights, set(unreached)).run()


def _is_initialised_by_torch(module: nn.Module) -> bool:
    """Whether a lazy module's initialisation is torch.nn's, which gives its tensors shapes and values, and no more."""
    if not isinstance(module, LazyModuleMixin) or not awaits_first_input(module):
        return False
    parts = (type(module).initialize_parameters, getattr(type(module), "reset_parameters", None))
    return all(getattr(part, "__module__", "").startswith("torch.nn.") for part in parts)


def _give_sizes(layer: LazyLayer, module: nn.Module) -> None:
    """Makes a lazy module eager: what is torch's own without drawing, any other as it initialises itself."""
    if _is_initialised_by_torch(module):
        stand_on(module, META)
    try:
        run_own_initialisation(module, meta_inputs(layer.args), meta_inputs(layer.kwargs), layer.hook)
    except (Exception, SystemExit) as error:  # the initialisation may be the caller's code
        raise LazyResolutionError(
            f"{layer.type} cannot initialise itself: {type(error).__name__}: {error}", remedy="check what it is fed"
        ).placed(layer.location) from error
    for name, size in layer.inference.attributes.items():
        setattr(module, name, size)


@dataclass(slots=True)
class _Loading:
    """One run of a model's `load_state_dict`, and what went wrong in it.

    Entries of the lazy modules in `unreached` may be missing; those of `layers` must have the sizes of the sample.
    """

    target: nn.Module
    weights: Mapping[str, Any]
    unreached: set[str] = field(default_factory=set)
    layers: list[LazyLayer] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def run(self) -> None:
        weights: Any = self.weights
        devices = {tensor.device for tensor in weights.values() if isinstance(tensor, torch.Tensor)} or {META}
        has_own_code = bool(loading_code(self.target))
        fresh = give_memory(self.target, lambda _: min(devices, key=str), marked=has_own_code)
        if has_own_code:
            weights = _copied(weights)  # its code may write into them, or keep them
        note = self.target.register_load_state_dict_post_hook(self._note)  # type: ignore[no-untyped-call]
        try:
            with torch.random.fork_rng(devices=[]):
                self.target.load_state_dict(weights)
        except (Exception, SystemExit) as error:  # hooks and overrides may raise anything
            raise self._fault(error) from error
        finally:
            note.remove()
        if has_own_code:
            self._check_all_loaded(fresh)

    def _note(self, module: nn.Module, found: Any) -> None:
        """A hook after all others: what is missing where it may be is none of torch's business."""
        found.missing_keys[:] = [key for key in found.missing_keys if key.rpartition(".")[0] not in self.unreached]
        self.missing, self.unknown = list(found.missing_keys), list(found.unexpected_keys)

    def _fault(self, error: BaseException) -> LoadError | LazyResolutionError:
        if self.missing or self.unknown:
            return _misfit(self.missing, self.unknown, "the model")
        for layer in self.layers:
            for name, shape in layer.inference.shapes.items():
                given = self.weights.get(_key(layer.path, name))
                if isinstance(given, torch.Tensor) and tuple(given.shape) != shape:
                    return _disagreement(layer, name, tuple(given.shape))
        for key, tensor in _tensors(self.target):
            given = self.weights.get(key)
            if isinstance(given, torch.Tensor) and not is_uninitialized(tensor) and given.shape != tensor.shape:
                return _misshapen(key, given, tensor)
        said = [line.strip() for line in str(error).strip().splitlines()] or [""]
        if isinstance(error, RuntimeError) and said[0].startswith("Error(s) in loading state_dict"):
            return LoadError(
                f"the weights cannot be loaded: {' '.join(said[1:])}", remedy="give the model's own weights"
            )
        return LoadError(
            f"the model's own loading code raises {type(error).__name__}: {said[0]}",
            remedy="make model.load_state_dict(weights) work",
        )

    def _check_all_loaded(self, fresh: Mapping[str, torch.Tensor]) -> None:
        now = dict(_tensors(self.target))
        for key, tensor in fresh.items():
            if now.get(key) is tensor and holds_nothing(tensor):
                raise LoadError(
                    f"the model's own loading code leaves {key} as it was, but it has no value",
                    remedy="give weights that hold it",
                )


def _copied(weights: Mapping[str, Any]) -> Mapping[str, Any]:
    """A copy of a state_dict; what is one tensor in it, or parts of one, is so in the copy."""
    leaves = OrderedDict(
        (key, value.detach() if isinstance(value, torch.Tensor) and not value.is_leaf else value)
        for key, value in weights.items()
    )
    copied: Any = deepcopy(leaves)
    metadata = getattr(weights, "_metadata", None)
    if metadata is not None:
        copied._metadata = deepcopy(metadata)
    found: Mapping[str, Any] = copied
    return found


# Which tensor of torch.nn's lazy classes states the input size, and how; and an input of that size.
_STATED_BY: tuple[tuple[str, str, Callable[[Any, torch.Tensor], int]], ...] = (
    ("in_features", "weight", lambda module, weight: weight.shape[1]),
    (
        "in_channels",
        "weight",
        lambda module, weight: weight.shape[0] if module.transposed else weight.shape[1] * module.groups,
    ),
    ("num_features", "weight", lambda module, weight: weight.shape[0]),
    ("num_features", "running_mean", lambda module, mean: mean.shape[0]),
)


def _become_eager(path: str, module: nn.Module, outline: nn.Module) -> None:
    """Ends a module's lazy life as a first forward would, on inputs of the size that its tensors say.

    `outline` is the lazy module on the meta device. Raises LoadError where the tensors are not what it makes of them.
    """
    tensors = dict(own_tensors(module))
    if not is_lazy(module) or any(map(is_uninitialized, tensors.values())):
        return  # its tensors are not in the weights, which the loading has let pass
    for attribute, source, size_of in _STATED_BY:
        if not hasattr(outline, attribute) or source not in tensors:
            continue
        try:
            size = size_of(outline, tensors[source])
            _initialise_alone(outline, _input_of(outline, attribute, size))
        except (IndexError, ValueError, RuntimeError) as error:  # no layer of its kind has such a tensor
            raise LoadError(
                f"the weights' {printable(_key(path, source))} is {list(tensors[source].shape)}, which is no shape "
                f"that a {type(module).__name__} gives it",
                remedy="give the weights of this model",
            ) from error
        break
    else:
        return  # a norm without tensors: nothing says its size
    for name, tensor in own_tensors(outline):
        if tensors[name].shape != tensor.shape:
            raise _misshapen(_key(path, name), tensors[name], tensor)
    end_laziness(module)
    module.__dict__.update({name: value for name, value in outline.__dict__.items() if type(value) is int})
    module.__class__ = type(outline)


def _initialise_alone(outline: Any, sample: torch.Tensor) -> None:
    """Initialises a lazy module without the other hooks that it may have."""
    key = outline._initialize_hook.id
    for other in [other for other in outline._forward_pre_hooks if other != key]:
        del outline._forward_pre_hooks[other]
    run_own_initialisation(outline, (sample,), {})


def _input_of(module: Any, attribute: str, size: int) -> torch.Tensor:
    if attribute == "in_channels":
        return torch.empty(1, size, *[1] * module._get_num_spatial_dims(), device=META)
    return torch.empty(1, size, device=META)


def check_keys(given: Collection[str], known: Collection[str], needed: Collection[str], whole: str) -> None:
    """Raises LoadError unless all needed keys of a state_dict are given, and only known ones."""
    missing, unknown = sorted(set(needed) - set(given)), sorted(set(given) - set(known))
    if missing or unknown:
        raise _misfit(missing, unknown, whole)


def _misfit(missing: Collection[str], unknown: Collection[str], whole: str) -> LoadError:
    faults = [f"{_listed(sorted(missing))} missing from it"] if missing else []
    faults += [f"{_listed(sorted(unknown))} not in {whole}"] if unknown else []
    return LoadError(f"the weights do not fit {whole}: {'; '.join(faults)}", remedy="give the model's own state_dict")


def _misshapen(key: str, given: torch.Tensor, tensor: torch.Tensor) -> LoadError:
    return LoadError(
        f"the weights' {printable(key)} is {list(given.shape)}, but the model's is {list(tensor.shape)}",
        remedy="give the weights of this model",
    )


def _disagreement(layer: LazyLayer, name: str, given: tuple[int, ...]) -> LazyResolutionError:
    sizes = ", ".join(f"{attribute} = {size}" for attribute, size in layer.inference.attributes.items())
    fault = LazyResolutionError(
        f"the checkpoint's {printable(_key(layer.path, name))} is {shape_text(given)}, "
        f"but the sample makes it {shape_text(layer.inference.shapes[name])} ({sizes})",
        remedy="give the sample that the checkpoint was trained with, or its weights",
    )
    fault.placed(layer.location, layer.type)
    return fault


def _check_decisions(read: Mapping[str, torch.Tensor], target: nn.Module) -> None:
    loaded = dict(_tensors(target))
    for key, tensor in read.items():
        if key in loaded and not torch.equal(loaded[key].to(tensor), tensor):
            raise LoadError(
                f"the forward reads the value of {printable(key)}, which is another in the weights than in the model",
                remedy="load the weights into the model first, with load_state_dict",
            )


def _tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Every parameter and buffer of the model by each of its paths."""
    for path, module in model.named_modules(remove_duplicate=False):
        yield from ((_key(path, name), tensor) for name, tensor in own_tensors(module))


def _key(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _listed(keys: list[str]) -> str:
    shown = ", ".join(map(printable, keys[:4]))
    return f"{shown} and {len(keys) - 4} more are" if len(keys) > 4 else f"{shown} {'are' if len(keys) > 1 else 'is'}"
