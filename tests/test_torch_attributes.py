"""What torch's objects keep, and we read where it is needed: names that begin with an underscore, on which we rely."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import fx, nn

OF_MODULES: dict[str, type] = {
    "_parameters": dict, "_buffers": dict, "_modules": dict, "_non_persistent_buffers_set": set,
    "_forward_hooks": OrderedDict, "_forward_pre_hooks": OrderedDict, "_forward_pre_hooks_with_kwargs": OrderedDict,
    "_load_state_dict_pre_hooks": OrderedDict, "_load_state_dict_post_hooks": OrderedDict,
    "_state_dict_pre_hooks": OrderedDict, "_state_dict_hooks": OrderedDict,
}  # fmt: skip


@pytest.mark.parametrize("name", OF_MODULES)
def test_what_a_module_keeps(name: str) -> None:
    assert isinstance(vars(nn.Module())[name], OF_MODULES[name])


@pytest.mark.parametrize(
    "name", ["_wrapped_call_impl", "_call_impl", "_slow_forward", "_load_from_state_dict", "_save_to_state_dict",
             "_named_members"],
)  # fmt: skip
def test_the_methods_of_a_module(name: str) -> None:
    assert callable(vars(nn.Module)[name])


def test_a_call_goes_through_them(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    for name in ("_call_impl", "_wrapped_call_impl"):
        own = getattr(nn.Module, name)
        monkeypatch.setattr(nn.Module, name, lambda self, x, own=own, name=name: (called.append(name), own(self, x))[1])
    monkeypatch.setattr(nn.Module, "__call__", nn.Module._wrapped_call_impl)
    nn.ReLU()(torch.ones(1))
    assert called == ["_wrapped_call_impl", "_call_impl"]


def test_what_a_lazy_module_keeps_until_its_first_call() -> None:
    lazy = nn.LazyLinear(2)
    handles = [vars(lazy)[name] for name in ("_initialize_hook", "_load_hook")]
    assert handles[0].id in lazy._forward_pre_hooks
    assert handles[1].id in lazy._load_state_dict_pre_hooks
    assert lazy._forward_pre_hooks[handles[0].id].__name__ == "_infer_parameters"
    lazy(torch.ones(1, 3))
    assert not {"_initialize_hook", "_load_hook"} & vars(lazy).keys()


def test_what_single_classes_keep() -> None:
    assert nn.MultiheadAttention(4, 2)._qkv_same_embed_dim is True
    assert nn.MultiheadAttention(4, 2, kdim=3)._qkv_same_embed_dim is False
    assert nn.LSTM(2, 3)._flat_weights_names == ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]
    assert nn.InstanceNorm2d(3)._get_no_batch_dim() == 3
    assert nn.LazyConv2d(3, 1)._get_num_spatial_dims() == 2
    assert torch.autocast("cpu")._enabled is True
    assert torch.autocast("cpu", enabled=False)._enabled is False


def test_what_tensors_and_state_dicts_keep() -> None:
    tensor = torch.zeros(2)
    version = tensor._version
    tensor.add_(1)
    assert tensor._version > version
    assert tensor[1:].untyped_storage()._cdata == tensor.untyped_storage()._cdata
    assert torch.zeros(2).untyped_storage()._cdata != tensor.untyped_storage()._cdata
    assert nn.Linear(2, 2).state_dict()._metadata == {"": {"version": 1}}


def test_a_parameter_is_told_by_its_class_and_a_flag() -> None:
    class Flagged(torch.Tensor):
        _is_param = True

    assert isinstance(torch.ones(1).as_subclass(Flagged), nn.Parameter)


def test_names_that_torch_gives() -> None:
    assert torch._foreach_add.__name__ == "_foreach_add"
    assert torch.export.Dim.AUTO.__class__.__name__ == "_DimHint"

    class Module(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.ones(1)

    targets = [str(node.target) for node in fx.Tracer().trace(Module()).nodes if node.op == "get_attr"]
    assert targets == ["_tensor_constant0"]

    class Extra(nn.Module):
        def get_extra_state(self) -> Any:
            return 1

    assert list(Extra().state_dict()) == ["_extra_state"]


def test_compiled_functions_know_what_they_were_compiled_from() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return x

    assert torch.compile(function, backend="eager")._torchdynamo_orig_callable is function
