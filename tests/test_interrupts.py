"""An interrupt at any instant, and a fork at any instant, leave nothing behind."""

from __future__ import annotations

import builtins
import functools
import gc
import os
import random
import signal
import sys
import threading
import time
from typing import Any

import pytest
import torch
from torch import nn
from torch.fx import _symbolic_trace as symbolic_trace
from torch.nn.modules import transformer

import tracer
from passes import errors
from passes.isolation.torch_state import TORCH_STATE


@functools.lru_cache
def table(length: int) -> torch.Tensor:
    return torch.arange(length).float()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm = nn.LazyLinear(4), nn.LazyBatchNorm1d()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.fc(x).relu() + table(x.shape[1])[:, None]
        y = self.attention(y, y, y, need_weights=False)[0]
        return self.norm(y.flatten(1)) if isinstance(y, torch.Tensor) else y


def everything() -> dict[str, Any]:
    """All that tracing patches, as it is."""
    return {
        "builtins": (builtins.isinstance, builtins.callable, builtins.type),
        "creation": (torch.zeros, torch.ones, torch.empty, torch.rand, torch.randn),
        "module": {name: vars(nn.Module).get(name) for name in ("training", "__call__", "__getattr__")},
        "fx": (symbolic_trace._is_fx_tracing_flag, symbolic_trace._wrapped_fns_to_patch),
        "functions": (torch.cond.__code__, torch.autocast.__enter__, transformer._detect_is_causal_mask),
        "apply": "apply" in vars(torch.autograd.function._SingleLevelFunction),
        "unwrap": torch._functorch.utils.unwrap_dead_wrappers,
        "fastpath": torch.backends.mha.get_fastpath_enabled(),
        "finders": list(sys.meta_path),
        "gradients": torch.is_grad_enabled(),
        "collector": gc.isenabled(),
        "random": (torch.get_rng_state().tolist(), torch.random.default_generator, random.getstate()),
        "recursion": sys.getrecursionlimit(),
        "errors": getattr(errors._made, "errors", None),
        "modes": (torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()),
        "lock": TORCH_STATE._is_owned(),  # type: ignore[attr-defined]
        "table": table(5).tolist() if type(table(5)) is torch.Tensor else table(5),
    }


class _Interrupts:
    """Raises KeyboardInterrupt at the n-th event of this thread: a call, a return, a call of native code."""

    def __init__(self, at: int):
        self.left = at

    def __call__(self, frame: Any, event: str, argument: Any) -> None:
        self.left -= 1
        if not self.left:
            sys.setprofile(None)
            raise KeyboardInterrupt


MODEL = Net()


def work() -> None:
    tracer.resolve(MODEL, tracer.spec("N", 5, 3), seed=0)


def events() -> int:
    work()
    counter = _Interrupts(-1)
    sys.setprofile(counter)
    work()
    sys.setprofile(None)
    return -1 - counter.left


# Python itself drops an interrupt that comes while a generator which is let go of is closed, or in a callback of the
# garbage collector (hypothesis has one), and says so.
_DROPPED_BY_PYTHON = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@_DROPPED_BY_PYTHON
@pytest.mark.parametrize("count", [25, pytest.param(500, marks=pytest.mark.slow)])
def test_an_interrupt_at_any_event(count: int) -> None:
    before, total, interrupted = everything(), events(), 0
    draw = random.Random(0)
    for _ in range(count):
        sys.setprofile(_Interrupts(draw.randrange(1, total)))
        try:
            work()
        except KeyboardInterrupt:
            interrupted += 1
        finally:
            sys.setprofile(None)
        after = everything()
        assert [name for name in before if after[name] != before[name]] == []
    assert interrupted > count * 0.9
    work()


@_DROPPED_BY_PYTHON
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer")
@pytest.mark.parametrize("count", [10, pytest.param(500, marks=pytest.mark.slow)])
def test_a_signal_at_any_instant(count: int) -> None:
    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    work()
    started = time.perf_counter()
    work()
    took = time.perf_counter() - started
    before, draw, known = everything(), random.Random(1), signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(count):
            try:
                signal.setitimer(signal.ITIMER_REAL, draw.uniform(1e-4, took))
                work()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                pass
            after = everything()
            assert [name for name in before if after[name] != before[name]] == []
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, known)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_forked_while_another_thread_traces() -> None:
    entered, leave = threading.Event(), threading.Event()

    class Waits(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            entered.set()
            leave.wait(60)
            return x + 1

    before = everything()
    thread = threading.Thread(target=lambda: tracer.inspect(Waits(), tracer.spec("N", 3)))
    thread.start()
    assert entered.wait(60)
    assert not gc.isenabled()
    child = os.fork()
    if not child:
        status = 1
        try:
            after = everything()
            work()
            status = 0 if [name for name in before if after[name] != before[name]] == [] else 2
        finally:
            os._exit(status)
    leave.set()
    thread.join()
    deadline = time.monotonic() + 60
    ended, status = 0, -1
    while not ended and time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.02)
    if not ended:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert (ended, status) == (child, 0)
