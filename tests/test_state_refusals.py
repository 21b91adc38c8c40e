"""What can be no input and output of a file, and files whose state is not what the module's is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import tracer
from passes.ops.op import FUNCTIONS
from tests.stateful import Of, counted, explicit
from tracer import spec

# What can be none -----------------------------------------------------------------------------------


def shared() -> nn.Module:
    model = Of(lambda self, x: (self.a.add_(1), x + self.view)[1], a=torch.zeros(2, 2))
    model.register_buffer("view", model.a[0])
    return model


def in_a_closure() -> nn.Module:
    tensor = torch.zeros(2)
    return Of(lambda self, x: (self.n.add_(1), x + tensor)[1], n=tensor)


def half_replaced() -> nn.Module:
    model = Of(lambda self, x: setattr(self, "a", self.a + 1) or x + self.b, a=torch.zeros(2))
    model.register_buffer("b", model.a)
    return model


def by_a_number(self: Any, x: torch.Tensor) -> torch.Tensor:
    self.n += 1
    return x if self.n > 2 else x * 2


class Holder:
    def __init__(self) -> None:
        self.t = torch.zeros(2)


class Late(nn.Module):
    """Its buffer gets its size by the first input."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("u", nn.UninitializedBuffer())
        self.register_forward_pre_hook(Late.initialise)

    @staticmethod
    def initialise(module: Any, args: tuple[torch.Tensor]) -> None:
        if isinstance(module.u, nn.UninitializedBuffer):
            module.u.materialize(args[0].shape[-1:])
            module.u.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.u += x.sum(0)
        return x + self.u


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "another size": (
        lambda: Of(lambda self, x: setattr(self, "b", torch.cat([self.b, x])) or self.b.sum(), b=torch.zeros(1, 2)),
        r"refusals\.py:\d+\).*the forward leaves float32\[T \+ 1, 2\] in b, which is float32\[1, 2\] before it",
    ),
    "another dtype": (
        lambda: Of(lambda self, x: setattr(self, "n", self.n + 0.5) or x + self.n, n=torch.tensor(1)),
        r"the forward leaves float32\[\] in n, which is int64\[\] before it",
    ),
    "a number in its place": (
        lambda: Of(lambda self, x: setattr(self, "plain", 5) or x, plain=torch.ones(1)),
        "leaves 5 in plain, which is",
    ),
    "a number": (
        lambda: Of(lambda self, x: setattr(self, "k", self.k + 1) or x + self.k, k=0),
        r'writes k, which is 0 before it, no tensor.*\n.*register_buffer\("k", torch.tensor\(0\)\)',
    ),
    "nothing before": (lambda: Of(lambda self, x: setattr(self, "c", x) or x * 1, c=None), "writes c, which is None"),
    "a list": (lambda: Of(lambda self, x: self.held.append(x) or x * 1, held=[]), "writes held, which is a list"),
    "in a list": (
        lambda: Of(lambda self, x: self.held[0].add_(1) + x, held=[torch.zeros(2)]),
        "writes held, which is a list",
    ),
    "in an object": (
        lambda: Of(lambda self, x: self.held.t.add_(1) + x, held=Holder()),
        "writes held, which is a Holder",
    ),
    "shared memory": (shared, "writes a, which shares memory with view.*\n.*clone"),
    "one of two places": (half_replaced, "a is one tensor in 2 places of the model, and the forward replaces it in"),
    "left in another's memory": (
        lambda: Of(
            lambda self, x: (self.h.add_(x.sum(0)), setattr(self, "h", self.start))[0] * 1,
            h=torch.zeros(2),
            start=torch.zeros(2),
        ),
        "writes h in place, and leaves it in the memory of start",
    ),
    "two in one memory": (
        lambda: Of(
            lambda self, x: (self.h.add_(x.sum(0)), setattr(self, "g", self.h[:1]))[0] * 1,
            h=torch.zeros(2),
            g=torch.zeros(1),
        ),
        "writes h in place, and leaves it in the memory of g",
    ),
    "used in a closure": (in_a_closure, "uses n, which is to be an input, otherwise than as an attribute"),
    "decides": (lambda: Of(by_a_number, n=torch.tensor(0)), "needs the data of gt bool"),
    "without a size": (Late, "writes u, which has no size before it"),
}


@pytest.mark.filterwarnings("ignore:the sample never reaches")
@pytest.mark.parametrize("name", REFUSED)
def test_what_can_be_no_input_is_refused(name: str) -> None:
    make, said = REFUSED[name]
    with pytest.raises(tracer.TracerError, match=f"(?s){said}"):
        explicit(make(), spec("T", 2), verify=False, route="direct")


def test_there_is_one_way_to_keep_state() -> None:
    with pytest.raises(tracer.InputError, match="state is 'implicit', not None or \"explicit\""):
        tracer.convert(nn.Linear(2, 2), spec(1, 2), state="implicit")


def test_what_only_a_run_on_data_shows_is_refused_too() -> None:
    """Nothing traced says that an attribute is gone."""

    def run(self: Any, x: torch.Tensor) -> torch.Tensor:
        del self.n
        return x + 1

    with pytest.raises(tracer.SideEffectError, match="leaves something behind in n"):
        explicit(Of(run, n=torch.ones(1)), spec("T", 2))


# Verification ---------------------------------------------------------------------------------------


def forgetting(path: str) -> Callable[[Any], None]:
    """A pass that makes the program begin anew each time: it reads the buffer in place of the input."""

    def forget(program: Any) -> None:
        (node,) = (node for node in program.graph.nodes if node.op == "placeholder" and node.target == path)
        with program.graph.inserting_after(node):
            constant = program.graph.get_attr(path)
        users = [user for user in node.users if user.op != "output"]
        for user in users:
            user.replace_input_with(node, constant)

    return forget


def test_a_file_that_begins_anew_each_time_disagrees_in_the_second_step() -> None:
    with pytest.raises(tracer.VerificationError, match="output output at T=4 in step 2 differs from the module's by"):
        explicit(Of(counted, n=torch.tensor(0)), spec("T", 2), dims={"T": 4}, passes=[forgetting("n")])


def test_a_state_that_is_not_what_the_module_leaves_disagrees() -> None:
    def exchange(program: Any) -> None:
        (output,) = (node for node in program.graph.nodes if node.op == "output")
        result, left = output.args[0]
        output.args = ((result, {"a": left["b"], "b": left["a"]}),)

    def run(self: Any, x: torch.Tensor) -> torch.Tensor:
        self.a += 1
        self.b += 2
        return x * 2

    with pytest.raises(tracer.VerificationError, match=r"output a_out .*1 of 1 elements: 2 and not 1"):
        explicit(Of(run, a=torch.tensor(0), b=torch.tensor(0)), spec("T", 2), passes=[exchange])


def test_where_a_later_step_goes_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(self: Any, x: torch.Tensor) -> torch.Tensor:
        self.n += 1
        return x * 2 - torch.relu(self.n)

    op = FUNCTIONS[torch.relu][0]
    monkeypatch.setattr(op, "lowering", lambda emit, call: emit.node("Tanh", call.input))  # the same at 0
    with pytest.raises(
        tracer.VerificationError, match=r"^relu \(test_state_refusals\.py:\d+\): output output at T=2 in step 2"
    ):
        explicit(Of(run, n=torch.tensor(-1.0)), spec("T", 2), dims={"T": 2})


def test_a_module_that_takes_few_steps_is_followed_as_far_as_it_goes() -> None:
    def fill(self: Any, x: torch.Tensor) -> torch.Tensor:
        self.k[:, self.n + torch.arange(x.shape[1])] = x
        self.n += x.shape[1]
        return self.k.sum(1)

    conversion = explicit(Of(fill, k=torch.zeros(1, 8), n=torch.tensor(0)), spec(1, 4))
    assert conversion.verification is not None
    assert {comparison.step for comparison in conversion.verification.comparisons} == {1, 2}
    (note,) = conversion.verification.notes
    assert note.startswith("the state is followed over 2 of 3 steps: the next raises IndexError")
