"""What a forward asks of its values has eager PyTorch's answer, or is refused; never another answer in silence."""

from __future__ import annotations

import itertools
import numbers
from collections.abc import Callable, Iterable, Sized
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tracer
from tracer import CaptureError, TracerError, spec

ANSWERS: list[Any] = []


class Net(nn.Module):
    def __init__(self, ask: Callable[..., Any]):
        super().__init__()
        self.fc, self.weight = nn.Linear(4, 4), nn.Parameter(torch.ones(4))
        self.frozen = nn.Parameter(torch.ones(4), requires_grad=False)
        self.register_buffer("buffer", torch.ones(4, 3).t())
        self.ask = ask

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for value in (x, self.fc(x), x.transpose(1, 2), x[:, ::2], self.weight, self.frozen, self.buffer):
            ANSWERS.append(self.ask(value))  # noqa: PERF401
        return x + 0


QUESTIONS: list[Callable[[Any], Any]] = [
    lambda x: callable(x),
    lambda x: isinstance(x, torch.Tensor),
    lambda x: isinstance(x, nn.Parameter),
    lambda x: isinstance(x, (int, Iterable)),
    lambda x: isinstance(x, Sized),
    lambda x: isinstance(x, (list, tuple)),
    lambda x: type(x) is torch.Tensor,
    lambda x: type(x) in (nn.Parameter, list),
    lambda x: type(x).__name__,
    lambda x: isinstance(type(x), type),
    lambda x: issubclass(type(x), torch.Tensor),
    lambda x: torch.is_tensor(x),
    lambda x: isinstance(x.shape, torch.Size),
    lambda x: isinstance(x.shape, tuple),
    lambda x: isinstance(x.shape, list),
    lambda x: type(x.shape) is torch.Size,
    lambda x: type(x.size()) is tuple,
    lambda x: type(x.shape[0]) is int,
    lambda x: type(x.shape[0] / 2) is float,
    lambda x: type(x.shape[0] > 2) is bool,
    lambda x: isinstance(x.shape[0], numbers.Integral),
    lambda x: isinstance(x.shape[0], (float, torch.SymInt)),
    lambda x: isinstance(x.numel() / 2, float),
    lambda x: callable(x.shape) or callable(x.shape[0]),
    lambda x: callable(x.view),
    lambda x: (x.shape[0] / 2).is_integer(),
    lambda x: x.shape[0].bit_length(),
    lambda x: hasattr(x.shape[0], "real"),
    lambda x: hasattr(x.shape[0], "shape"),
    lambda x: x.shape[0] in {2, 7},
    lambda x: {2: "two"}.get(x.shape[0], "other"),
    lambda x: f"{x.shape[0]} {x.shape} {x.shape[-1]:03d}",
    lambda x: str(x.shape[0]) + repr(x.shape[1:]) + "%s %d" % (x.shape[0], x.shape[-1]),  # noqa: UP031
    lambda x: str(tuple(x.shape)),
    lambda x: hash(tuple(x.shape)) == hash(tuple(int(size) for size in x.shape)),
    lambda x: x.is_contiguous(),
    lambda x: x.is_contiguous(memory_format=torch.contiguous_format),
    lambda x: tuple(int(step) for step in x.stride()),
    lambda x: int(x.stride(-1)),
    lambda x: int(x.storage_offset()),
    lambda x: x.is_leaf,
    lambda x: x.requires_grad,
    lambda x: x.grad is None,
    lambda x: x.grad_fn is None,
    lambda x: x.dtype is torch.float32,
    lambda x: x.device.type,
    lambda x: (x.is_cuda, x.is_cpu, x.is_meta, x.is_sparse, x.is_quantized, x.is_nested),
    lambda x: x.layout is torch.strided,
    lambda x: (int(x.dim()), int(x.ndim), int(x.ndimension())),
    lambda x: (x.is_floating_point(), x.is_complex(), x.element_size(), x.get_device()),
    lambda x: torch.is_grad_enabled(),
    lambda x: (x.is_signed(), x.itemsize, int(x.nbytes)),
]


@pytest.mark.parametrize("ask", QUESTIONS)
def test_answers(ask: Callable[[Any], Any]) -> None:
    """Those of eager PyTorch without gradients."""
    model = Net(ask).eval()
    ANSWERS.clear()
    with torch.no_grad():
        model(torch.randn(2, 6, 4))
    expected = list(ANSWERS)
    ANSWERS.clear()
    try:
        tracer.inspect(model, spec(2, 6, 4))
    except TracerError:
        ANSWERS.clear()
        return
    assert expected == ANSWERS


@pytest.mark.parametrize("ask", [str, repr, lambda x: f"{x}", lambda x: f"{x.sum():.2f}", lambda x: f"{x!r}"])
def test_text_of_data_is_refused(ask: Callable[[Any], Any]) -> None:
    class Tells(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if "1" in ask(x) else -x

    with pytest.raises(TracerError):
        tracer.convert(Tells(), spec(2, 3), verify=False)


@pytest.mark.filterwarnings("ignore:.* is fixed at")
def test_text_of_a_dynamic_size_is_a_guard_or_only_told() -> None:
    class Tells(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            print(f"the length is {x.shape[1]}")
            return x if len(f"{x.shape[0]}") == 1 else -x

    guards = [str(guard) for guard in tracer.inspect(Tells(), spec("N", "T"), dims={"N": 5}).guards if guard.dynamic]
    assert len(guards) == 1
    assert guards[0].startswith("N == 5")


@pytest.mark.parametrize(
    ("needs", "inside"),
    list(
        itertools.product(
            [
                lambda x: [0] * int(x.sum()),
                lambda x: bool((x > 0).all()),
                lambda x: x.nonzero().tolist(),
                lambda x: x @ torch.ones(77, 1),
            ],
            [False, True],
        )
    ),
)
def test_a_signal_that_the_forward_catches_wins(needs: Callable[[Any], Any], inside: bool) -> None:
    class Catches(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            try:
                y = needs(x)
                return x * 2 if isinstance(y, torch.Tensor) and y.shape else x
            except Exception:
                return x * 3

    model = nn.Sequential(Catches()) if inside else Catches()
    for function in (tracer.inspect, lambda *given: tracer.convert(*given, verify=False)):
        with pytest.raises(TracerError):
            function(model, spec("N", 6))


@pytest.mark.parametrize("enabled", [False, True])
@pytest.mark.parametrize("as_decorator", [False, True])
def test_autocast(enabled: bool, as_decorator: bool) -> None:
    def product(x: torch.Tensor) -> torch.Tensor:
        return x @ x

    class Casts(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if as_decorator:
                return torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled)(product)(x).float()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
                return product(x).float()

    if enabled:
        with pytest.raises(CaptureError, match=r"torch\.autocast"):
            tracer.convert(Casts(), spec(3, 3), verify=False)
    else:
        assert tracer.convert(Casts(), spec(3, 3)).route == "direct"


def test_dropout_in_training_is_refused() -> None:
    class Drops(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.dropout(x)

    with pytest.raises(TracerError, match="draws random numbers"):
        tracer.convert(Drops(), spec(3, 3), route="direct", verify=False)
