"""Random straight-line forwards over sizes that only the data say: masks, counts, positions, and what follows."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

# What a line makes, by its kind: rows of three numbers, vectors, positions among six, and numbers of Python's.
# A letter in braces is a value of that kind, `{c}` a column, `{t}` a threshold.
LINES: dict[str, list[str]] = {
    "R": [
        "{R}[{R}[:, {c}] > {t}]", "{R}[({R} > {t}).all(1)]", "x[m]", "x[~m]", "x[{I}]", "x.index_select(0, {I})",
        "{R}[:{N}]", "{R}[{N}:]", "{R}[-{N}:]", "{R}[:-{N}]", "{R}[{N} - 2 : {N} + 1]", "{R}[1:]", "{R}[:2]",
        "{R}[-2:]", "{R}[::2]", "torch.cat([{R}, {R}])", "torch.cat([{R}[:, :1], {R}[:, 1:]], 1)", "{R} * {N}",
        "{R} + {R}.shape[0]", "{R} - {R}.sum(0)", "{R} / max({R}.shape[0], 1)", "{R}.flip(0)", "{R}.roll({c}, 0)",
        "{R}.roll(-4, 0)", "{R}.cumsum(0)", "{R}.sort(0)[0]", "{R}.softmax(0)", "{R}.softmax(1)", "{R}.diff(dim=0)",
        "F.pad({R}, (0, 0, 0, -{R}.shape[0] % 4))", "F.pad({R}, (0, 0, 1, {N}))", "{R}.repeat(2, 1)",
        "{R}.repeat_interleave(2, 0)", "{R}.tanh() @ ({R}.tanh().T @ {R}.tanh())",
        "{R}.narrow(0, 0, {R}.shape[0] // 2)", "{R}.new_zeros({R}.shape[0], 3) + {c}", "{R}.T.reshape(-1, 3)",
        "{R}.unique(dim=0)", "self.linear({R})", "self.norm({R})", "self.attention({R})",
        "{R}.masked_fill({R} > {t}, 0.5)", "{R}.clamp(max={N})", "x[x[:, {c}].argsort(stable=True)]",
        "torch.zeros(6, 3).index_add(0, {I}, x[{I}])", "self.written({R}, {N})",
        "self.table(torch.arange({R}.shape[0]) % 6)", "torch.ones(1, 3).expand({R}.shape[0], -1) * {R}",
        "{R}.view(-1, 1, 3).expand(-1, 2, -1).flatten(0, 1)", "{R}.reshape({R}.shape[0] * 3).view(-1, 3)",
        "torch.where({R} > {t}, {R}, {R}.sum())", "x.masked_scatter(m[:, None], x[m] * 2)", "{R}.tril()",
        "torch.stack([{R}, {R} * 2], 1).sum(1)", "{R}.tensor_split([1, 3])[1]",
        "{R}.split([1, 2], 1)[1].mean(1, True) + {R}", "{R}.unbind(1)[{c}][:, None] * {R}",
        "x[m].gather(1, x[m].long().abs() % 3)", "torch.cdist({R}, {R}) @ {R}", "self.conv({R}.T[None])[0].T",
        "x.repeat_interleave(m.long() * {c}, 0)",
    ],
    "V": [
        "{R}.sum(1)", "{R}[:, {c}]", "{V}[{V} > {t}]", "{V}.unique()", "{V}.cumsum(0)", "{V} * {N}", "{V}[:{N}]",
        "torch.cat([{V}, {V}])", "{R}.mean(1)", "torch.arange({N}) * 0.5", "{V}.sort(descending=True)[0]",
        "{V}.flip(0)", "torch.full(({N},), {t})", "torch.linspace(0, 1, {N})",
        "x[m].long().abs().flatten().bincount(minlength=2) * 0.5",
        "torch.zeros(6).scatter_add(0, {I}, torch.ones({I}.shape[0]))", "{V}[-{N}:]", "{V}.unique_consecutive()",
        "{R}.amax(1)", "x[m, {c}]", "x[m, {I}[:0].sum()]", "{V} / ({V}.shape[0] + 1)",
        "torch.repeat_interleave({I}) * 1.0", "x.sum(0)[({I} * 2) % 3]", "{V}.repeat({N} % 3)",
        "F.one_hot({I}, 6).sum(0) * 0.5", "torch.isin(x[:, 0], {V}) * 1.0",
        "torch.searchsorted({V}.sort()[0], x[:, 1]) * 1.0",
    ],
    "I": [
        "m.nonzero()[:, 0]", "torch.where(x[:, {c}] > {t})[0]", "{I}.flip(0)", "{I}[1:]", "{I}.repeat_interleave(2)",
        "{I}.unique()", "torch.arange(6)[m]", "x[m, 0].long().abs() % 6", "torch.cat([{I}, {I}])", "{I}[:{N}]",
        "x[:, {c}].argsort(stable=True)[:{N}] % 6", "torch.arange({N}) % 6", "{I}[{I} > 2]",
    ],
    "N": [
        "{R}.shape[0]", "int(m.sum())", "{I}.numel()", "({N} + 1) // 2", "max({N}, 1)", "min({N}, 3)", "len({V})",
        "(x[:, {c}] > {t}).sum().item()", "int(x[0].sum().abs())", "math.ceil({N} / 2)", "{N} % 3", "abs({N} - 3)",
    ],
}  # fmt: skip


@dataclass
class Program:
    """The lines of a forward, and the names of the tensors that it returns."""

    lines: list[str] = field(default_factory=list)
    results: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n".join([*self.lines, f"return {', '.join(self.results)}"])


def random_program(seed: int, length: int) -> Program:
    """A program of so many lines, each of which uses what the ones before it have made.

    A letter mostly stands for one value throughout a line. Where it does not, sizes may meet that need not agree.
    """
    source = random.Random(seed)
    program = Program()
    names: dict[str, list[str]] = {"R": ["x"], "V": ["x[m, 0]"], "I": ["m.nonzero()[:, 0]"], "N": ["int(m.sum())"]}
    for number in range(length):
        kind = source.choices("RVIN", [6, 3, 2, 2])[0]
        pattern = source.choice(LINES[kind])
        values: dict[str, Any] = {"c": source.randrange(3), "t": source.choice([-0.5, 0.0, 0.75])}
        line, text = "", pattern
        while "{" in text:
            before, _, rest = text.partition("{")
            letter, _, text = rest.partition("}")
            if letter in names and (letter not in values or source.random() < 0.1):
                values[letter] = source.choice(names[letter][-4:])
            line += f"{before}{values[letter]}"
        name = f"{kind.lower()}{number}"
        program.lines.append(f"{name} = {line}{text}")
        names[kind].append(name)
        if kind != "N":
            program.results.append(name)
    return program


class Straight(nn.Module):
    """A program as a model, of data `x` [*, 3] and a mask `m` [*]."""

    def __init__(self, program: Program):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.norm, self.table = nn.Linear(3, 3), nn.LayerNorm(3), nn.Embedding(6, 3)
        self.conv = nn.Conv1d(3, 3, 1)
        space = {"torch": torch, "F": F, "math": math}
        text = "\n".join(f"    {line}" for line in str(program).splitlines())
        exec(f"def forward(self, x, m):\n{text}", space)
        self._forward = space["forward"]

    def forward(self, x: torch.Tensor, m: torch.Tensor) -> Any:
        return self._forward(self, x, m)

    def attention(self, rows: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(rows[None], rows[None], rows[None])[0]

    def written(self, rows: torch.Tensor, count: int) -> torch.Tensor:
        rows = rows.clone()
        rows[:count] = 2
        rows[count:, 1] += rows.shape[0]
        rows[rows > 4] = 0.5
        return rows
