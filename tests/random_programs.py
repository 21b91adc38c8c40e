"""Random straight-line forwards that write in place: through views, modules, hooks, real tensors and named results.

Half of them have layers of their own, lazy and eager, with hooks and replaced parts, which the forward calls in several
ways and writes to, or changes, between the calls.
"""

from __future__ import annotations

import operator
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

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
    "{a}[:, None][..., 0] = 1", "{a}.tril_()", "{a}.bernoulli_(0.0)", "torch.Tensor.add_({a}, 1)",
    "torch.Tensor.__setitem__({a}, 0, 2)", "torch.Tensor.t_({a})", "torch.Tensor.__imul__({a}, {b})",
    "torch._foreach_add_([{a}, {a}.T], 1)", "torch._foreach_mul_([{a}], [{b}])", "torch._foreach_copy_([{a}], [{b}])",
    "torch.Tensor.copy_({a}, {b})", "operator.iadd({a}, 1)", "operator.setitem({a}, 0, {b}[-1])", "{a}.__iadd__(1)",
    "{a}.__setitem__(0, 5)", "torch._foreach_zero_({a}.unbind(0))", "torch.neg_({a})", "torch.ops.aten.add_({a}, 1)",
    "torch.Tensor.zero_(TABLE[0])", "torch.Tensor.mul_(self.plain, {a})", "self.drop.inplace = True",
    "nn.init.zeros_({a})", "nn.init.constant_({a}[0], 2)", "torch.relu_({a}[:1])", "F.threshold_({a}, 0.1, 0.2)",
    "torch.clamp_({a}, -1, 1)", "torch.fill_({a}[0], 2)", "torch.index_put_({a}, (torch.tensor([0]),), {b}[:1])",
]  # fmt: skip
SEVERAL = [
    ("{n}, {m} = {a}.topk(2)", 2), ("{n}, {m} = {a}.sort(-1)", 2), ("{n}, {m} = {a}.max(-1)", 2),
    ("{n}, {m} = {a}.chunk(2, -1)", 2), ("{n}, {m} = torch.broadcast_tensors({a}, {b})", 2), ("{n} = {a}.min(0)", 0),
    ("{n} = {a}.split(1)", 0), ("{n}, {m} = self.returned({a})", 2), ("{n}, {m} = {a}.unbind(0)", 2),
    ("{n}, {m} = torch.atleast_2d({a}, {b})", 2), ("{n}, {m} = {a}, {b}", 2), ("{n} = {a}.topk(1)", 0),
]  # fmt: skip

# Layers that most tensors of a program fit, and what is done to one before the forward: hooks and replaced parts.
LAYERS = [
    "nn.Linear(4, 4)", "nn.LazyLinear(4)", "nn.Linear(4, 2, bias=False)", "nn.LayerNorm(4)", "nn.BatchNorm1d(4)",
    "nn.LazyBatchNorm1d()", "nn.Conv1d(2, 2, 3, padding=1)", "nn.LazyConv1d(2, 3, padding=1)", "nn.GroupNorm(1, 2)",
    "nn.LazyInstanceNorm1d(affine=True)", "nn.PReLU()", "nn.ReLU()", "nn.LeakyReLU(0.2, inplace=True)", "nn.Identity()",
    "nn.Dropout()", "nn.Flatten(0)", "nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Dropout())",
    "nn.Sequential(nn.Identity(), nn.Dropout())", "nn.Sequential(nn.LazyLinear(4), nn.Identity())",
    "nn.Softmax(-1)", "nn.LazyConvTranspose1d(2, 3, padding=1)", "nn.Hardtanh(inplace=True)", "Scaled()",
    "LazyScaled()",
]  # fmt: skip
PREPARED = [
    "{m}.register_forward_hook(lambda module, args, out: out * 2)",
    "{m}.register_forward_hook(_add_into)", "{m}.register_forward_pre_hook(_negate_into)",
    "{m}.register_forward_pre_hook(lambda module, args: (args[0] + 1,))",
    "{m}.register_forward_pre_hook(lambda module, args: args[0] - 1, prepend=True)",
    "{m}.register_forward_pre_hook(lambda module, args, kwargs: (args, kwargs), with_kwargs=True)",
    "{m}.register_forward_hook(lambda module, args, kwargs, out: out - len(kwargs), with_kwargs=True)",
    "{m}.register_forward_hook(lambda module, args, out: out.abs(), always_call=True)",
    "{m}.register_forward_hook(lambda module, args, out: args[0].add_(1) * 0 + out)",
    "{m}.register_forward_hook(lambda module, args, out: args[0])",
    "{m}.register_forward_hook(lambda module, args, out: out.t())",
    "{m}.register_forward_hook(lambda module, args, out: out.unsqueeze_(0))",
    "{m}.register_forward_hook(lambda module, args, out: module.weight.data.mul_(0.5) * 0 + out)",
    "{m}.register_forward_pre_hook(lambda module, args: module.weight.data.clamp_(-0.2, 0.2) and None)",
    "{m}.register_forward_pre_hook(lambda module, args: setattr(module, 'eps', 0.1))",
    "handle = {m}.register_forward_hook(lambda module, args, out: handle.remove() or out + 1)",
    "seen = []; {m}.register_forward_hook(lambda module, args, out: seen.append(out) or sum(seen))",
    "old = {m}.forward; {m}.forward = lambda *args, **kwargs: old(*args, **kwargs) * 2",
    "{m}.forward = lambda input: input", "{m}.forward = lambda input: input.mul_(2)",
    "{m}.__class__ = type('Its', (type({m}),), {{'forward': lambda self, input: input[:1] * 2}})",
    "{m}.__class__ = type('Its', (type({m}),), {{'__call__': lambda self, x: nn.Module.__call__(self, x) + 1}})",
    "{m}.__class__ = type('Its', (type({m}),), {{'weight': property(lambda self: self._parameters['weight'] * 2)}})",
    "{m}._conv_forward = lambda input, weight, bias: F.conv1d(input, weight * 2, bias, padding=1)",
    "parametrize.register_parametrization({m}, 'weight', Halved())", "parametrizations.weight_norm({m})",
    "weight = {m}.weight.data; del {m}.weight; {m}.weight = weight", "{m}.bias = None", "{m}.weight = self.weight",
    "{m}.weight = self.m0.weight", "self.register_buffer('shared', {m}.weight.data.view(-1)[:4])",
    "{m}.weight.data = {m}.weight.data.t()", "{m}.__dict__['plain'] = {m}.weight.data[0]",
    "{m}.register_full_backward_hook(lambda *args: None)", "{m}.requires_grad_(False)",
]  # fmt: skip
CALLS = [
    "{n} = self.{m}({a})", "{n} = self.{m}({a})", "{n} = self.{m}({a})", "{n} = self.{m}(input={a})",
    "{n} = self.{m}.forward({a})", "{n} = type(self.{m}).forward(self.{m}, {a})", "{n} = self.{m}.__call__({a})",
    "{n} = torch.func.functional_call(self.{m}, {{'weight': self.{m}.weight * 2}}, ({a},))",
    "{n} = torch.func.functional_call(self.{m}, {{k: v + 1 for k, v in self.{m}.named_parameters()}}, {a})",
    "{n} = self.{m}(self.{m}({a}))", "{n} = self.{m}({a}.t()).t()", "{n} = F.linear({a}, self.{m}.weight)",
    "{n} = self.{m}.weight", "{n} = self.{m}.bias", "{n} = self.{m}.weight.data", "{n} = self.{m}.running_mean",
    "{n} = self.{m}.weight.detach()[0]", "{n} = self.{m}.weight.t()", "{n} = self.shared", "{n} = self.{m}.plain",
    "{n} = self.get_parameter('{m}.weight')", "{n} = dict(self.named_buffers())['{m}.running_var']",
    "{n} = next(self.{m}.parameters())", "{n} = list(self.{m}.children())[0]({a})", "{n} = self.{m}[0]({a})",
]  # fmt: skip
CHANGES = [
    "self.{m}.weight.data.mul_(0.5)", "self.{m}.weight.clamp_(-0.2, 0.2)", "self.{m}.bias.data[0] = 1",
    "self.{m}.running_mean.fill_(0.3)", "self.{m}.running_var += 1",
    "self.{m}.weight.data = self.{m}.weight.data + 0.1",
    "self.{m}.bias = None", "self.{m}.eps = 0.1", "self.{m}.inplace = not self.{m}.inplace", "self.{m}.p = 0.1",
    "self.{m}.weight.data[0] += {a}.mean()", "self.{m}.negative_slope = 0.5", "{a} += self.{m}.weight[0]",
    "self.{m}.num_batches_tracked += 1", "nn.init.constant_(self.{m}.weight, 0.3)", "self.shared.mul_(2)",
    "self.{m}.weight.div_(self.{m}.weight.norm(dim=-1, keepdim=True))", "self.{m}.weight.copy_({a})",
    "self.{m}.weight = nn.Parameter(self.{m}.weight * 2)", "self.{m}.plain += 1", "self.{m}.padding = (0,)",
    "self.{m}.forward = lambda input: input + 1", "self.{m}.weight.data.t_()", "self.{m}.running_mean = {a}.mean(0)",
    "self.{m}.weight.view(-1)[0] = {a}.max()", "torch.mul(self.{m}.weight, 2, out=self.{m}.weight)",
    "self.{m}.running_mean.lerp_({a}.mean(0), 0.1)", "self.{m}.normalized_shape = (2, 4)", "self.{m}.affine = False",
    "self.{m}.parametrizations.weight.original.data.add_(1)", "self.{m}.register_forward_hook(_double)",
    "self.{m}._forward_hooks.clear()", "self.{m} = nn.Identity()", "self.{m}.track_running_stats = False",
    "for p in self.{m}.parameters(): p.data.mul_(2)", "self.{m}.start_dim = 1", "self.{m}.dim = 0",
    "torch.Tensor.add_(self.{m}.weight, 1)", "torch.Tensor.__setitem__(self.{m}.weight, 0, 2)",
]  # fmt: skip

TABLES = {"new": NEW, "real": REAL, "view": VIEWS, "write": WRITES, "call": CALLS, "change": CHANGES}

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


class Halved(nn.Module):
    """A parametrization."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight / 2


class Scaled(nn.Module):
    """A layer that no op covers, with a tensor of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.register_buffer("running_mean", torch.zeros(4))
        self.plain = torch.ones(4)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        self.running_mean += 1
        return input * self.weight - self.running_mean + self.plain


class LazyScaled(nn.modules.lazy.LazyModuleMixin, nn.Module):
    """A lazy layer of the caller's own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.UninitializedParameter()
        self.bias = nn.Parameter(torch.zeros(1))

    def initialize_parameters(self, input: torch.Tensor) -> None:
        if self.has_uninitialized_params():
            self.weight.materialize((input.shape[-1],))
            nn.init.uniform_(self.weight)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return input * self.weight + self.bias


SEED = 3


@dataclass(frozen=True, slots=True)
class Text:
    """A program: what is done to its layers `m0`, `m1` …, the lines of its forward, and the names that these define."""

    prepared: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    names: tuple[str, ...] = ("t0",)

    def __str__(self) -> str:
        return "\n".join([*self.prepared, "t0 = x * 2", *self.lines, f"return {list(self.names)}"])


class RandomProgram(nn.Module):
    """A forward of the given lines; its tensors are `t0` (the input doubled), `t1`, …, all of which it returns.

    Its weights, and those that lazy layers then draw in PyTorch, follow from `SEED`.
    """

    def __init__(self, text: Text):
        super().__init__()
        torch.manual_seed(SEED)
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
        body = "\n    ".join(["t0 = x * 2", *text.lines, f"return [{', '.join(text.names)}]"])
        prepared = "\n    ".join(["pass", *text.prepared])
        names = {"F": F, "operator": operator, "parametrizations": parametrizations, "parametrize": parametrize}
        scope: dict[str, Any] = {**globals(), **names, "TABLE": TABLE.clone()}
        exec(f"def forward(self, x):\n    {body}\ndef prepare(self):\n    {prepared}", scope)
        scope["prepare"](self)
        self.run: Callable[..., Any] = scope["forward"]
        torch.manual_seed(SEED)

    @property
    def table(self) -> torch.Tensor:
        """The global tensor of the lines."""
        found: torch.Tensor = self.run.__globals__["TABLE"]
        return found

    def forward(self, x: torch.Tensor) -> Any:
        return [result * 1 if isinstance(result, torch.Tensor) else tuple(result) for result in self.run(self, x)]


def random_program(seed: int, x: torch.Tensor) -> Text:
    """A program that eager PyTorch runs."""
    source = random.Random(seed)
    text = Text(_random_layers(source)) if seed % 2 else Text()
    kinds = ["new", "real", "view", "write", "several", *(["call", "change"] if text.prepared else [])]
    for _ in range(source.randint(3, 14)):
        kind = source.choices(kinds, [2, 2, 6, 6, 1, 8, 6][: len(kinds)])[0]
        names, made = text.names, (f"t{len(text.names)}", f"t{len(text.names) + 1}")
        # The last few are chosen more often: chains of views are the point.
        a, b = (source.choices(names, [index + 1 for index in range(len(names))])[0] for _ in range(2))
        index = source.choice(["0", "-1", f"{b}.argmax() * 0"])
        if kind == "several":
            line, count = source.choice(SEVERAL)
            count = count or 1
        else:
            line, count = source.choice(TABLES[kind]), int(kind not in ("write", "change"))
            line = f"{{n}} = {line}" if kind in ("new", "real", "view") else line
        layer = f"m{source.randrange(2)}"
        apart, line = (
            form.format(a=a, b=b, i=index, n=made[0], m=layer if text.prepared and kind != "several" else made[1])
            for form in (line.replace("{b}", "{b}.clone()"), line)
        )
        longer = replace(text, lines=(*text.lines, line), names=(*names, *made[:count]))
        found = eager(longer, x)
        if found is None or not all(map(small, found)):
            continue
        # What torch computes where an operand overlaps with what is written depends on the order of its loops.
        if count or equal(found, eager(replace(longer, lines=(*text.lines, apart)), x)):
            text = longer
    return text


def _random_layers(source: random.Random) -> tuple[str, ...]:
    """Two layers, and what is done to them."""
    prepared: tuple[str, ...] = ()
    for name in ("m0", "m1"):
        prepared = (*prepared, f"self.{name} = {source.choice(LAYERS)}")
        for _ in range(source.randint(0, 2)):
            line = source.choice(PREPARED).format(m=f"self.{name}")
            if _can_be_built((*prepared, line)):
                prepared = (*prepared, line)
    return prepared


def _can_be_built(prepared: tuple[str, ...]) -> bool:
    try:
        RandomProgram(Text(prepared))
    except _REFUSALS:
        return False
    return True


def eager(text: Text, x: torch.Tensor) -> list[torch.Tensor] | None:
    """What PyTorch computes, from the model as it was built; None where it refuses."""
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("error")
            return flat(RandomProgram(text).eval()(x.clone()))
    except _REFUSALS:
        return None


# What PyTorch raises where an operation does not fit.
_REFUSALS = (
    Warning, RuntimeError, IndexError, ValueError, TypeError, AttributeError, NotImplementedError, KeyError,
    RecursionError, StopIteration, AssertionError,
)  # fmt: skip


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
