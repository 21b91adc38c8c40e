"""What a branch or a loop may not do, with the caller's line, what was found, and what to do instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan

import tracer
from tests.control_flow.oracle import Model

X = torch.ones(2, 4)
ZERO = torch.tensor(0)


def refused(forward: Callable[..., Any], *args: Tensor, **modules: nn.Module) -> tracer.TracerError:
    """What the direct route says; the error, or the reason for which it is blocked."""
    model = Model(forward, **modules)
    model.register_buffer("count", torch.zeros(()))
    with pytest.raises(tracer.TracerError) as caught:
        tracer.convert(model, args or (X,), route="direct")
    return caught.value


def place(forward: Callable[..., Any], line: int) -> str:
    """A line behind that of a forward."""
    return f"test_refusals.py:{forward.__code__.co_firstlineno + line}"


def stated(error: tracer.TracerError) -> tuple[str, str | None, str]:
    """What an error says, at which line, and the remedy."""
    if isinstance(error, tracer.UnsupportedOpError):
        (blocker,) = error.blockers
        return blocker.reason, blocker.location.source, error.remedy
    assert error.location is not None
    return error.message, error.location.source, error.remedy


# Sizes, dtypes and structures that differ ---------------------------------------------------------


def test_sides_of_different_ranks() -> None:
    def forward(model: Any, x: Tensor) -> Tensor:
        def half(x: Tensor) -> Tensor:
            return x[0] * 2

        return torch.cond(x.sum() > 0, lambda x: x + 1, half, (x,))

    error = refused(forward)
    assert isinstance(error, tracer.ShapeError)
    assert stated(error) == (
        f"the branches of torch.cond give different ranks: result 0 is float32[2, 4] from <lambda> "
        f"({place(forward, 4)}), but float32[4] from half ({place(forward, 1)})",
        place(forward, 4),
        "make both branches give tensors of one rank and dtype, by a reshape or a cast",
    )


def test_sides_of_different_dtypes() -> None:
    def forward(model: Any, x: Tensor) -> Any:
        return torch.cond(x.sum() > 0, lambda x: (x, x), model.turn, (x,))

    class Turn(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return x, x.double()

    message, line, _ = stated(refused(forward, turn=Turn()))
    assert message == (
        f"the branches of torch.cond give different dtypes: result 1 is float32[2, 4] from <lambda> "
        f"({place(forward, 1)}), but float64[2, 4] from turn"
    )
    assert line == place(forward, 1)


def test_sides_of_different_structure() -> None:
    def forward(model: Any, x: Tensor) -> Any:
        return torch.cond(x.sum() > 0, lambda x: (x, x), lambda x: {"x": x}, (x,))

    name = f"<lambda> ({place(forward, 1)})"
    assert stated(refused(forward)) == (
        f"torch.cond takes one structure, but {name} gives (float32[2, 4], float32[2, 4]), and {name} gives "
        "{x: float32[2, 4]}",
        place(forward, 1),
        "return tensors in the same tuples, lists and dicts",
    )


def test_a_condition_of_many_elements() -> None:
    def forward(model: Any, x: Tensor) -> Any:
        return torch.cond(x > 0, lambda x: x + 1, lambda x: x, (x,))

    assert stated(refused(forward)) == (
        "a condition is one truth value, but here it is bool[2, 4]",
        place(forward, 1),
        "reduce it to one element, with any() or all()",
    )


@pytest.mark.parametrize("body", ["torch.cat([h, h])", "h.double()", "h[h[:, 0] > 0]"])
def test_what_is_carried_must_stay_what_it_is(body: str) -> None:
    def forward(model: Any, x: Tensor) -> Any:
        def step(i: Tensor, h: Tensor) -> Any:
            return i + 1, eval(body)

        return torch.while_loop(lambda i, h: i < 3, step, (ZERO, x))

    found = {"torch.cat([h, h])": "float32[4, 4]", "h.double()": "float64[2, 4]"}.get(body, "float32[u1, 4]")
    assert stated(refused(forward)) == (
        f"torch.while_loop carries value 1 as float32[2, 4], but step ({place(forward, 1)}) gives {found} for it",
        place(forward, 4),
        "keep its shape and dtype: write into a tensor of fixed size, or cast",
    )


def test_a_body_gives_what_it_is_given() -> None:
    def forward(model: Any, x: Tensor) -> Any:
        return torch.while_loop(lambda h: h.sum() < 30, lambda h: h + 1, (x,))

    message, line, _ = stated(refused(forward))
    assert message == (
        "torch.while_loop takes one structure, but carried_inputs gives (float32[2, 4]), and <lambda> "
        f"({place(forward, 1)}) gives float32[2, 4]"
    )
    assert line == place(forward, 1)


def test_a_loop_goes_on_by_one_truth_value() -> None:
    def forward(model: Any, x: Tensor) -> Any:
        return torch.while_loop(lambda h: 30 - h.sum(), lambda h: (h + 1,), (x,))

    message, line, _ = stated(refused(forward))
    assert message == (
        "the condition of torch.while_loop is one truth value, a bool without axes, but <lambda> "
        f"({place(forward, 1)}) gives (float32[])"
    )
    assert line == place(forward, 1)


def test_steps_over_tensors_of_different_length() -> None:
    def forward(model: Any, x: Tensor) -> Any:
        return scan(lambda c, r: (c + r[0].sum(), r[0]), torch.zeros(()), (x, x[:1]))

    message, line, _ = stated(refused(forward))
    assert message == "scan goes over axis 0 of tensors of different sizes there: 2, 1"
    assert line == place(forward, 1)


def test_a_step_gives_what_is_carried_and_a_result() -> None:
    def forward(model: Any, x: Tensor) -> Any:
        return scan(lambda c, r: c + r, torch.zeros(4), x)

    message, line, _ = stated(refused(forward))
    assert message.startswith(
        f"scan's <lambda> ({place(forward, 1)}) gives float32[4], not what is carried on and a result; run on data"
    )
    assert line == place(forward, 1)


# Writes, and values that leave a region ------------------------------------------------------------


def to_an_operand(model: Any, x: Tensor) -> Any:
    return torch.cond(x.sum() > 0, lambda x: x.add_(1), lambda x: x * 1, (x,))


def to_a_view_of_one(model: Any, x: Tensor) -> Any:
    def written(x: Tensor) -> Tensor:
        x.view(-1)[0] = 3.0
        return x * 1

    return torch.cond(x.sum() > 0, written, lambda x: x * 1, (x,))


def to_an_outer_tensor(model: Any, x: Tensor) -> Any:
    y = x * 2
    return torch.cond(x.sum() > 0, lambda: y.mul_(2), lambda: y * 1)


def to_a_buffer(model: Any, x: Tensor) -> Any:
    return torch.cond(x.sum() > 0, lambda x: x + model.count.add_(1), lambda x: x * 1, (x,))


def to_what_is_carried(model: Any, x: Tensor) -> Any:
    return torch.while_loop(lambda i, h: i < 3, lambda i, h: (i + 1, h.mul_(2)), (ZERO, x))


def to_a_slice(model: Any, x: Tensor) -> Any:
    return scan(lambda c, r: (c + r, r.neg_()), torch.zeros(4), x)


def to_the_enclosing_side(model: Any, x: Tensor) -> Any:
    def outer(x: Tensor) -> Tensor:
        y = x * 2
        return torch.cond(x.max() > 0, lambda y: y.add_(1), lambda y: y * 1, (y,))

    return torch.cond(x.sum() > 0, outer, lambda x: x * 1, (x,))


def by_another_view(model: Any, x: Tensor) -> Any:
    return torch.cond(x.sum() > 0, lambda x: x.unsqueeze_(0), lambda x: x[None] * 1, (x,))


WRITES = {
    to_an_operand: ("args_0 float32[2, 4]", 1),
    to_a_view_of_one: ("view float32[8]", 2),
    to_an_outer_tensor: ("mul float32[2, 4]", 2),
    to_a_buffer: ("count float32[]", 1),
    to_what_is_carried: ("carried_3 float32[2, 4]", 1),
    to_a_slice: ("sliced float32[4]", 1),
    to_the_enclosing_side: ("mul float32[2, 4]", 3),
    by_another_view: ("args_0 float32[2, 4]", 1),
}


@pytest.mark.parametrize("forward", WRITES)
def test_a_write_to_what_lies_outside(forward: Callable[..., Any]) -> None:
    what, line = WRITES[forward]
    assert stated(refused(forward)) == (
        f"{what} is written in place within a branch or a loop, which is given it or finds it outside",
        place(forward, line),
        "write to a clone of it, and return that",
    )


def in_a_list(model: Any, x: Tensor) -> Any:
    kept: list[Tensor] = []
    y = torch.cond(x.sum() > 0, lambda x: kept.append(x * 2) or x + 1, lambda x: x, (x,))
    return y + kept[0]


def in_an_attribute(model: Any, x: Tensor) -> Any:
    def keeps(x: Tensor) -> Tensor:
        model.last = x * 2
        return x + 1

    return torch.cond(x.sum() > 0, keeps, lambda x: x, (x,)) + model.last


def from_the_other_side(model: Any, x: Tensor) -> Any:
    kept: list[Tensor] = []
    return torch.cond(x.sum() > 0, lambda x: kept.append(x * 2) or x + 1, lambda x: x - kept[0], (x,))


@pytest.mark.parametrize(
    ("forward", "computed", "line"), [(in_a_list, 2, 3), (in_an_attribute, 2, 5), (from_the_other_side, 2, 2)]
)
def test_a_value_that_leaves_its_region(forward: Callable[..., Any], computed: int, line: int) -> None:
    assert stated(refused(forward)) == (
        f"mul float32[2, 4] is computed in a branch or a loop at {place(forward, computed)}, and used outside of it",
        place(forward, line),
        "return it from the function that torch.cond or the loop is given",
    )


def test_an_error_within_a_side_is_told_at_its_line() -> None:
    def forward(model: Any, x: Tensor) -> Any:
        def broken(x: Tensor) -> Tensor:
            return x @ x

        return torch.cond(x.sum() > 0, lambda x: x, broken, (x,))

    error = refused(forward)
    assert isinstance(error, tracer.ShapeError)
    assert stated(error)[1] == place(forward, 2)


# Control flow of Python's on data ------------------------------------------------------------------


def branches(model: Any, x: Tensor) -> Tensor:
    if x.sum() > 0:
        return x + 1
    return x


def loops(model: Any, x: Tensor) -> Tensor:
    while x.sum() < 100:
        x = x * 2
    return x


def repeats(model: Any, x: Tensor, n: Tensor) -> Tensor:
    for _ in range(n.item()):  # type: ignore[arg-type]
        x = x + 1
    return x


def converts(model: Any, x: Tensor, n: Tensor) -> Tensor:
    for _ in range(int(n)):
        x = x + 1
    return x


IN_PLACE_OF_PYTHON = "use torch.cond in place of if and torch.while_loop in place of while, or choose with torch.where"
NUMBER_OF_DATA = "the forward needs {} as a fixed number, which depends on the data: u0 is the number that item() gives"
IN_PLACE_OF_RANGE = (
    "repeat with torch.while_loop what is done so often, and compute with torch's operations in all else"
)


@pytest.mark.parametrize(
    ("forward", "message", "remedy"),
    [
        (branches, "the forward needs the data of gt bool[] for control flow", IN_PLACE_OF_PYTHON),
        (loops, "the forward needs the data of lt bool[] for control flow", IN_PLACE_OF_PYTHON),
        (repeats, NUMBER_OF_DATA.format("args_1.item()"), IN_PLACE_OF_RANGE),
        (converts, NUMBER_OF_DATA.format("int(args_1.item())"), IN_PLACE_OF_RANGE),
    ],
)
def test_pythons_own_control_flow_is_told_what_stands_in_for_it(
    forward: Callable[..., Any], message: str, remedy: str
) -> None:
    args = (X, torch.tensor(3)) if forward in (repeats, converts) else (X,)
    said, *rest = stated(refused(forward, *args))
    assert said.startswith(message)
    assert rest == [place(forward, 1), remedy]
