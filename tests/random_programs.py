"""Random straight-line forwards that write in place: through views, modules, hooks, real tensors and named results."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

# Each makes a tensor of others; what torch does not take is left out of a program.
NEW = [
    "{a} * 2", "{a} + 1", "{a} - {b}", "torch.relu({a})", "{a}.clone()", "{a}.sum(-1)", "{a}.mean(0, keepdim=True)",
    "torch.cat([{a}, {b}])", "{a}.softmax(-1)", "torch.where({a} > 0, {a}, {b})",
    "{a}[{a}.new_zeros(1).long()]", "{a}.new_zeros({a}.shape)", "torch.zeros(2, 4)", "{a}.t() + 1",
    "{a}.double()", "{a}.to(torch.float64).to({a})",
    "{a}.repeat(1, 2)", "{a}.flip(0)", "self.linear({a})", "self.norm({a})", "{a}.argsort(-1)",
    "{a}.contiguous() * {b}",
]  # fmt: skip
REAL = [
    "torch.tensor([1.0, -2.0, 3.0, 4.0])", "torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])", "TABLE",
    "self.plain", "self.plain[0]", "self.plain.t()", "self.buffer", "self.weight", "self.weight.data", "TABLE[1:]",
    "torch.as_tensor([2.0, 1.0])", "TABLE[:, ::2]", "torch.tensor(3.0)", "self.plain.view(-1)", "TABLE + 1",
]  # fmt: skip
VIEWS = [
    "{a}[0]", "{a}[:, 1:3]", "{a}[..., ::2]", "{a}[None]", "{a}[-1:]", "{a}.select(-1, 1)", "{a}.narrow(0, 1, 1)",
    "{a}.narrow(-1, -2, 2)", "{a}.transpose(0, -1)", "{a}.mT", "{a}.T", "{a}.movedim(0, -1)", "{a}.swapaxes(0, 1)",
    "{a}.permute(1, 0)", "{a}.flatten()", "{a}.ravel()", "{a}.reshape(-1, 2)", "{a}.reshape(2, -1)", "{a}.view(-1)",
    "{a}.view(2, -1)", "{a}.view_as({b})", "{a}.reshape_as({b})", "{a}.unsqueeze(1)", "{a}.squeeze()",
    "{a}.unflatten(-1, (2, -1))", "{a}.chunk(2, -1)[1]", "{a}.split(1)[0]", "{a}.unbind(0)[-1]", "{a}.hsplit(2)[0]",
    "{a}.tensor_split(2)[0]", "{a}.detach()", "{a}.data", "{a}.real", "{a}.contiguous()", "{a}.cpu()", "+{a}",
    "torch.positive({a})", "{a}.to(torch.float32)", "{a}.to('cpu')", "{a}.to({b})", "{a}.float()", "{a}.type_as({b})",
    "{a}.type(torch.float32)", "{a}.expand_as({b})", "{a}.expand(2, 2, 4)", "torch.broadcast_to({a}, (2, 4))",
    "torch.broadcast_tensors({a}, {b})[0]", "torch.broadcast_tensors({a}, {b})[1]", "torch.atleast_2d({a})",
    "torch.atleast_3d({a}, {b})[1]", "torch.einsum('ij->ji', {a})", "torch.einsum('ij->ij', {a})", "{a}.diagonal()",
    "{a}.unfold(-1, 2, 2)", "{a}.requires_grad_(False)", "torch.meshgrid({a}[0], {b}[0], indexing='ij')[1]",
    "self.drop({a})", "self.identity({a})", "self.flatten({a})", "self.sequence({a})", "self.unflatten({a})",
    "F.dropout({a}, 0.5, False)", "torch.dropout({a}, 0.5, False)", "self.hooked({a})", "self.own({a})",
    "{a}[{i}]", "{a}.select(0, {i})", "{a}.swapdims(0, -1)", "torch.squeeze({a}[None], 0)", "torch.t({a})",
    "torch.flatten({a}, 0)", "torch.select({a}, 0, 1)", "torch.cartesian_prod({a})", "{a}.view(1, 1, 2, 4)",
    "torch.pixel_shuffle({a}, 1)", "self.returned({a})[0]", "F.dropout1d({a}, training=False)", "{a}.moveaxis(0, 1)",
]  # fmt: skip
WRITES = [
    "{a}.add_(1)", "{a}.mul_({b})", "{a} += {b}", "{a} *= 0.5", "{a} -= {b}.mean()", "{a}.copy_({b})", "{a}.zero_()",
    "{a}.fill_(0.25)", "{a}.fill_({b}.max())", "{a}.masked_fill_({a} > 1, 0.0)", "{a}.masked_fill_({a} > 0, {b}.min())",
    "{a}.clamp_(-1, 1)", "{a}.clamp_(max={b})", "{a}.lerp_({b}, 0.5)", "{a}[0] = {b}[-1]", "{a}[..., -1] = 3",
    "{a}[:, 1:] = {b}[:, 1:]", "{a}[{a} > 0] = 0.5", "{a}[{i}] = 2", "{a}[0] += 1", "{a}[..., 0].add_(2)",
    "{a}.index_copy_(0, torch.tensor([1]), {b}[:1])", "{a}.index_fill_(0, torch.tensor([1]), {b}.max())",
    "{a}.index_add_(0, torch.tensor([1]), {b}[:1])", "{a}.index_put_((torch.tensor([0]),), {b}[:1])",
    "{a}.scatter_(0, torch.zeros_like({b}).long(), {b})", "{a}.scatter_add_(0, torch.zeros_like({b}).long(), {b})",
    "{a}.addmm_({b}.clone(), {b}.T.clone())", "{a}.addcmul_({a}, {b})", "{a}.fill_diagonal_(1.5)", "{a}.pow_(2)",
    "{a}.neg_()",
    "torch.add({a}, {b}, out={a})", "torch.mul({b}, 2, out={a})", "torch.where({a} > 0, {b}, {a}, out={a})",
    "F.relu({a}, inplace=True)", "F.leaky_relu({a}, 0.1, True)", "torch.relu_({a})", "self.relu({a})", "{a}.sigmoid_()",
    "self.relu(input={a})", "self.writing({a})", "self.prepared({a})", "{a}.data.add_(1)", "{a}.detach().mul_(2)",
    "self.buffer[0] = {a}.mean()", "self.buffer += 1", "self.plain += {b}", "TABLE[0, 0] = {a}.max()", "TABLE.mul_(2)",
    "self.weight.data.mul_(0.5)", "{a}.sub_(torch.tensor(1.0))", "{a}.T[0] = 4", "{a}.view(-1)[1] = 5",
    "{a}.t_()", "{a}.squeeze_()", "{a}.unsqueeze_(0)", "{a}.transpose_(0, -1)",
    "{a}.swapaxes_(0, 1)", "{a}.data = {b}.clone()", "for row in {a}: row.mul_(2)", "{a}[[0, 1]] = {b}[:2]",
    "{a}[:, None][..., 0] = 1", "{a}.tril_()", "{a}.bernoulli_(0.0)",
]  # fmt: skip
SEVERAL = [
    ("{n}, {m} = {a}.topk(2)", 2), ("{n}, {m} = {a}.sort(-1)", 2), ("{n}, {m} = {a}.max(-1)", 2),
    ("{n}, {m} = {a}.chunk(2, -1)", 2), ("{n}, {m} = torch.broadcast_tensors({a}, {b})", 2), ("{n} = {a}.min(0)", 0),
    ("{n} = {a}.split(1)", 0), ("{n}, {m} = self.returned({a})", 2), ("{n}, {m} = {a}.unbind(0)", 2),
    ("{n}, {m} = torch.atleast_2d({a}, {b})", 2), ("{n}, {m} = {a}, {b}", 2), ("{n} = {a}.topk(1)", 0),
]  # fmt: skip

TABLE = torch.linspace(-2, 2, 8).view(2, 4)


def _add_into(module: nn.Module, args: Any, output: torch.Tensor) -> None:
    output += 1


def _double(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
    return output * 2


def _negate_into(module: nn.Module, args: Any) -> None:
    args[0].neg_()


class Own(nn.Identity):
    """A covered class with a forward of its own."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return input.view(-1)


class Pair(nn.Module):
    """Gives back what it is given, and a copy."""

    def forward(self, input: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return input, input + 1


class RandomProgram(nn.Module):
    """A forward of the given lines; its tensors are `t0` (the input doubled), `t1`, …, all of which it returns."""

    def __init__(self, lines: list[str], names: list[str]):
        super().__init__()
        self.plain = torch.linspace(-1, 1, 8).view(2, 4)
        self.register_buffer("buffer", torch.arange(4.0))
        self.weight = nn.Parameter(torch.linspace(0.5, 2, 8).view(2, 4))
        self.linear, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)
        for parameter in (*self.linear.parameters(), *self.norm.parameters()):
            nn.init.constant_(parameter, 0.25)
        self.drop, self.identity, self.flatten = nn.Dropout(), nn.Identity(), nn.Flatten(0)
        self.unflatten = nn.Unflatten(-1, (2, -1))
        self.sequence = nn.Sequential(nn.Identity(), nn.Dropout1d(), nn.AlphaDropout())
        self.relu, self.own, self.returned = nn.ReLU(inplace=True), Own(), Pair()
        self.writing, self.hooked, self.prepared = nn.Identity(), nn.Dropout(), nn.Identity()
        self.writing.register_forward_hook(_add_into)
        self.hooked.register_forward_hook(_double)
        self.prepared.register_forward_pre_hook(_negate_into)
        self.lines, self.names = lines, names
        body = "\n    ".join(["t0 = x * 2", *lines, f"return [{', '.join(names)}]"])
        scope: dict[str, Any] = {"torch": torch, "F": F, "TABLE": TABLE.clone()}
        exec(f"def forward(self, x):\n    {body}", scope)
        self.run: Callable[..., Any] = scope["forward"]

    @property
    def table(self) -> torch.Tensor:
        """The global tensor of the lines."""
        found: torch.Tensor = self.run.__globals__["TABLE"]
        return found

    def forward(self, x: torch.Tensor) -> Any:
        return [result * 1 if isinstance(result, torch.Tensor) else tuple(result) for result in self.run(self, x)]


def random_program(seed: int, x: torch.Tensor) -> tuple[list[str], list[str]]:
    """Lines that eager PyTorch runs, and the names that they define."""
    source = random.Random(seed)
    lines: list[str] = []
    names = ["t0"]
    for _ in range(source.randint(3, 14)):
        kind = source.choices(["new", "real", "view", "write", "several"], [2, 2, 6, 6, 1])[0]
        made = [f"t{len(names)}", f"t{len(names) + 1}"]
        # The last few are chosen more often: chains of views are the point.
        a, b = (source.choices(names, [index + 1 for index in range(len(names))])[0] for _ in range(2))
        index = source.choice(["0", "-1", f"{b}.argmax() * 0"])
        if kind == "several":
            line, count = source.choice(SEVERAL)
            count = count or 1
        else:
            table = {"new": NEW, "real": REAL, "view": VIEWS, "write": WRITES}[kind]
            line = source.choice(table) if kind == "write" else "{n} = " + source.choice(table)
            count = 0 if kind == "write" else 1
        apart = line.replace("{b}", "{b}.clone()").format(a=a, b=b, i=index, n=made[0], m=made[1])
        line = line.format(a=a, b=b, i=index, n=made[0], m=made[1])
        found = eager(RandomProgram([*lines, line], [*names, *made[:count]]), x)
        if found is None or not all(map(small, found)):
            continue
        # What torch computes where an operand overlaps with what is written depends on the order of its loops.
        if kind != "write" or equal(found, eager(RandomProgram([*lines, apart], names), x)):
            lines.append(line)
            names += made[:count]
    return lines, names


def eager(model: RandomProgram, x: torch.Tensor) -> list[torch.Tensor] | None:
    """What PyTorch computes, from the model as it was built; None where it refuses."""
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("error")
            return flat(model.eval()(x.clone()))
    except (Warning, RuntimeError, IndexError, ValueError, TypeError, AttributeError, NotImplementedError):
        return None


def equal(found: list[torch.Tensor], others: list[torch.Tensor] | None) -> bool:
    return others is not None and all(
        ours.shape == theirs.shape and torch.allclose(ours, theirs, equal_nan=True)
        for ours, theirs in zip(found, others, strict=True)
    )


def flat(value: Any) -> list[torch.Tensor]:
    return [value] if isinstance(value, torch.Tensor) else [tensor for item in value for tensor in flat(item)]


def small(tensor: torch.Tensor) -> bool:
    """Whether rounding stays out of the comparison."""
    return tensor.numel() < 200 and bool(tensor.double().abs().nan_to_num(1e9).lt(1e6).all())
