"""What the lengths of packed sequences may be: an input, numbers, sizes; and what can be done with what is packed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import (
    PackedSequence,
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
    pad_sequence,
    unpack_sequence,
)

import tracer
from passes.errors import InputError, ShapeError, TracerError
from tests.ops.oracle import propagated
from tests.packed.files import Of, assert_agrees

LENGTHS = tracer.spec("N", dtype=torch.int64)
ROWS = tracer.spec("N", "T", 3)


def lstm(**options: Any) -> nn.LSTM:
    return nn.LSTM(3, 4, batch_first=True, **options)


def guards(conversion: tracer.Conversion) -> list[str]:
    return [guard.condition for guard in conversion.report.guards if guard.dynamic]


# Packed and padded again, with nothing in between ---------------------------------------------------


@settings(max_examples=8, deadline=None)
@given(
    features=st.lists(st.integers(1, 3), max_size=2), batch_first=st.booleans(), sorts=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.int64, torch.int32, torch.bool, torch.float16]),
    value=st.sampled_from([0, 1, -2]), more=st.integers(0, 2), seed=st.integers(0, 99),
)  # fmt: skip
def test_there_and_back(
    features: list[int], batch_first: bool, sorts: bool, dtype: torch.dtype, value: int, more: int, seed: int
) -> None:
    """Tensors of any axes and dtype come back with what pads them in its place, and their lengths."""

    def forward(m: Any, x: Tensor, lengths: Tensor) -> Any:
        packed = pack_padded_sequence(x, lengths, batch_first, enforce_sorted=not sorts)
        return pad_packed_sequence(packed, batch_first, value, x.shape[1 if batch_first else 0] + more)

    generator = torch.Generator().manual_seed(seed)

    def inputs(n: int, t: int) -> tuple[Tensor, Tensor]:
        lead = (n, t) if batch_first else (t, n)
        lengths = torch.randint(1, t + 1, (n,), generator=generator)
        x = torch.randint(0, 5, (*lead, *features), generator=generator).to(dtype)
        return x, lengths if sorts else lengths.sort(descending=True).values

    names = ("N", "T") if batch_first else ("T", "N")
    sample = (tracer.spec(*names, *features, dtype=dtype), LENGTHS)
    assert_agrees(Of(forward), sample, [inputs(3, 5), inputs(1, 1), inputs(4, 2)])


# Numbers --------------------------------------------------------------------------------------------

TWO = [(torch.randn(2, steps, 3),) for steps in (5, 9)]


def test_numbers_in_falling_order() -> None:
    def forward(m: Any, x: Tensor) -> Any:
        packed, states = m.net(pack_padded_sequence(x, [5, 3], True))
        return pad_packed_sequence(packed, True), states

    conversion = assert_agrees(Of(forward, net=lstm(bidirectional=True)), tracer.spec(2, "T", 3), TWO)
    assert guards(conversion) == ["T >= 5"]
    assert conversion.report.outputs[0] == "float32[2, 5, 8]"


def test_numbers_in_any_order_and_every_part_of_the_result() -> None:
    def forward(m: Any, x: Tensor) -> Any:
        packed, states = m.net(pack_padded_sequence(x, [2, 5, 3, 4], True, enforce_sorted=False))
        return *packed, states, pad_packed_sequence(packed, True, padding_value=7.0, total_length=x.shape[1])

    runs = [(torch.randn(4, steps, 3),) for steps in (5, 9)]
    assert_agrees(Of(forward, net=lstm(num_layers=2, bidirectional=True)), tracer.spec(4, "T", 3), runs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_packed_between_two_layers(dtype: torch.dtype) -> None:
    """The elements pass through other operations, so that only their packed form is known behind these."""

    def forward(m: Any, x: Tensor) -> Any:
        packed = pack_padded_sequence(x, [5, 3], True)
        packed = PackedSequence(m.before(torch.relu(packed.data)), packed.batch_sizes)
        packed, states = m.net(packed)
        packed = PackedSequence(packed.data * 2, *packed[1:])
        return pad_packed_sequence(packed, True, total_length=x.shape[1]), states

    parts = {"before": nn.Linear(3, 3), "net": lstm(num_layers=2, bidirectional=True)}
    sample = tracer.spec(2, "T", 3, dtype=dtype)
    assert_agrees(Of(forward, **parts).to(dtype), sample, [(x.to(dtype),) for (x,) in TWO])


def test_a_layer_of_ones_own_over_the_batch_sizes() -> None:
    def forward(m: Any, x: Tensor) -> Any:
        packed, h = pack_padded_sequence(x, [5, 3, 1], True), torch.zeros(3, 4)
        at, outputs = 0, []
        for rows in packed.batch_sizes.tolist():
            reached = m.cell(packed.data[at : at + rows], h[:rows])
            h, at = torch.cat([reached, h[rows:]]), at + rows
            outputs.append(reached)
        return pad_packed_sequence(PackedSequence(torch.cat(outputs), packed.batch_sizes), True), h

    runs = [(torch.randn(3, steps, 3),) for steps in (5, 9)]
    assert_agrees(Of(forward, cell=nn.GRUCell(3, 4)), tracer.spec(3, "T", 3), runs)


def test_the_lengths_that_come_back_are_numbers() -> None:
    def forward(m: Any, x: Tensor) -> Any:
        rows, lengths = pad_packed_sequence(pack_padded_sequence(x, [2, 5, 3], True, enforce_sorted=False), True)
        return [row[:length] for row, length in zip(rows, lengths.tolist(), strict=True)], lengths

    runs = [(torch.randn(3, steps, 3),) for steps in (5, 9)]
    assert_agrees(Of(forward), tracer.spec(3, "T", 3), runs)


def test_torchs_functions() -> None:
    net = nn.GRU(3, 4, bidirectional=True)
    batch_sizes = torch.tensor([3, 2, 2])
    weights = [weight.detach() for weight in net.parameters()]

    def forward(m: Any, data: Tensor, h: Tensor) -> Any:
        return torch.gru(data, batch_sizes, h, weights, True, 1, 0.0, False, True)

    sample = (tracer.spec(7, 3), tracer.spec(2, 3, 4))
    assert_agrees(Of(forward), sample, [(torch.randn(7, 3), torch.randn(2, 3, 4))])


# Sizes ----------------------------------------------------------------------------------------------


def test_a_list_of_tensors_of_any_sizes() -> None:
    def forward(m: Any, *rows: Tensor) -> Any:
        packed, states = m.net(pack_sequence(list(rows), enforce_sorted=False))
        return pad_packed_sequence(packed, True), states, packed.data

    runs = [tuple(torch.randn(size, 3) for size in sizes) for sizes in ((4, 2, 7), (1, 5, 5))]
    sample = tuple(tracer.spec(name, 3) for name in "ABC")
    for net in (lstm(bidirectional=True), Overrides(3, 4, batch_first=True)):
        conversion = assert_agrees(Of(forward, net=net), sample, runs)
        assert conversion.report.outputs[0].startswith("float32[3, max(A, B, C), ")
        assert conversion.report.outputs[-1].startswith("float32[A + B + C, ")
        assert guards(conversion) == []
    assert_agrees(Of(forward, net=lstm()), tuple(tracer.spec(size, 3) for size in (4, 2, 7)), runs[:1])


class Overrides(nn.GRU):
    def forward(self, x: Any, h: Any = None) -> Any:  # type: ignore[override]
        return super().forward(x, h)


def test_a_list_of_tensors_that_must_fall() -> None:
    def forward(m: Any, a: Tensor, b: Tensor) -> Any:
        packed, states = m.net(pack_sequence([a, b]))
        return pad_packed_sequence(packed), states

    runs = [(torch.randn(4, 3), torch.randn(2, 3)), (torch.randn(4, 3), torch.randn(4, 3))]
    conversion = assert_agrees(Of(forward, net=lstm()), (tracer.spec("A", 3), tracer.spec("B", 3)), runs)
    assert guards(conversion) == ["A >= B"]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_list_of_tensors_padded(side: str) -> None:
    def forward(m: Any, *rows: Tensor) -> Any:
        return pad_sequence(list(rows), padding_side=side), pad_sequence(rows, True, 2.5, side)

    runs = [tuple(torch.randn(size, 2) for size in sizes) for sizes in ((4, 2, 5), (1, 7, 5))]
    sample = (tracer.spec("A", 2), tracer.spec("B", 2), tracer.spec(5, 2))
    assert_agrees(Of(forward), sample, runs)


def test_rows_of_full_length() -> None:
    def forward(m: Any, x: Tensor) -> Any:
        lengths = torch.full((x.shape[0],), x.shape[1])
        packed, states = m.net(pack_padded_sequence(x, lengths, True))
        return pad_packed_sequence(packed, True), states

    runs = [(torch.randn(4, 5, 3),), (torch.randn(1, 2, 3),)]
    conversion = assert_agrees(Of(forward, net=lstm()), ROWS, runs)
    assert conversion.report.outputs[0] == "float32[N, T, 4]"


# An input -------------------------------------------------------------------------------------------


def padded(m: Any, x: Tensor, lengths: Tensor, **options: Any) -> Any:
    packed, states = m.net(pack_padded_sequence(x, lengths, True, enforce_sorted=False))
    return pad_packed_sequence(packed, True, **options), states


RUN = (torch.randn(4, 5, 3), torch.tensor([2, 5, 1, 5]))


def test_a_total_length_that_is_known_to_do() -> None:
    fixed = (tracer.spec(4, 5, 3), tracer.spec(4, dtype=torch.int64))
    promised = (tracer.spec("N", "T", 3, "T<=50"), LENGTHS)
    for total, sample in ((5, fixed), (7, fixed), (50, promised)):
        model = Of(lambda m, x, lengths, total=total: padded(m, x, lengths, total_length=total), net=lstm())
        assert_agrees(model, sample, [RUN])


USES = {
    "the sum of the batch sizes": lambda p, x: p.batch_sizes.sum(),
    "batch sizes as an operand": lambda p, x: x.sum() + p.batch_sizes,
    "how many batch sizes there are": lambda p, x: torch.zeros(len(p.batch_sizes)),
    "how many steps there are": lambda p, x: x[:, : p.batch_sizes.size(0)],
    "one step less": lambda p, x: x[:, : p.batch_sizes.shape[0] - 1],
    "data in a function": lambda p, x: torch.relu(p.data),
    "data in a method": lambda p, x: p.data.exp(),
    "data in an operator": lambda p, x: 2 - p.data,
    "data among others": lambda p, x: torch.cat([x[0], p.data]),
    "data converted": lambda p, x: p.to(torch.float64).data,
    "data in a subscript": lambda p, x: (p.data[0], p.data[-1]),
    "data reduced": lambda p, x: (p.data.mean(0), p.data.softmax(0)),
    "how many elements there are": lambda p, x: torch.zeros(p.data.numel()),
    "an output": lambda p, x: p,
    "padded to what is longest": lambda p, x: (pad_packed_sequence(p, True), pad_packed_sequence(p, False, 3.0)),
    "padded to more": lambda p, x: pad_packed_sequence(p, True, 3.0, x.shape[1] + 1),
    "unpacked": lambda p, x: pad_packed_sequence(p, True)[0][:, -1],
}
FALLING = [(torch.randn(4, 5, 3), torch.tensor(numbers)) for numbers in ([5, 5, 1, 1], [4, 2, 2, 1], [1, 1, 1, 1])]


@pytest.mark.parametrize("use", USES)
def test_what_is_packed_is_used(use: str) -> None:
    """Sizes that the lengths decide are sizes that come from data, with which anything can be computed."""

    def forward(m: Any, x: Tensor, lengths: Tensor) -> Any:
        return USES[use](pack_padded_sequence(x, lengths, True), x)

    runs = [*FALLING, (torch.randn(1, 2, 3), torch.tensor([2]))]
    assert_agrees(Of(forward), (ROWS, LENGTHS), runs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_layers_with_others_between_them(dtype: torch.dtype) -> None:
    """The elements pass through lazy layers while they are packed, and are padded to what is longest."""

    def forward(m: Any, x: Tensor, lengths: Tensor) -> Any:
        packed = pack_padded_sequence(x, lengths, True, enforce_sorted=False)
        packed = PackedSequence(torch.relu(m.before(packed.data)), *packed[1:])
        packed, states = m.net(packed)
        packed = PackedSequence(m.behind(packed.data), *packed[1:])
        return pad_packed_sequence(packed, True), states

    parts = {"before": nn.LazyLinear(3), "net": lstm(bidirectional=True), "behind": nn.LazyLinear(2)}
    runs = [RUN, (torch.randn(3, 9, 3), torch.tensor([3, 8, 8])), (torch.randn(1, 2, 3), torch.tensor([1]))]
    sample = (tracer.spec("N", "T", 3, dtype=dtype), LENGTHS)
    conversion = assert_agrees(Of(forward, **parts).to(dtype), sample, [(x.to(dtype), each) for x, each in runs])
    assert conversion.report.resolved == {"before": {"in_features": 3}, "behind": {"in_features": 8}}
    assert conversion.report.outputs[0].endswith("[N, u0, 2]")


def test_rows_unpacked() -> None:
    def forward(m: Any, x: Tensor, lengths: Tensor) -> Any:
        return unpack_sequence(pack_padded_sequence(x, lengths, True, enforce_sorted=False))

    sample = (tracer.spec(3, "T", 3), tracer.spec(3, dtype=torch.int64))
    assert_agrees(Of(forward), sample, [(torch.randn(3, 9, 3), torch.tensor([3, 8, 7]))])


def test_attention_over_the_steps_that_there_are() -> None:
    """Whole and verified, at sizes and lengths of the verification's own."""

    def forward(m: Any, x: Tensor, lengths: Tensor) -> Tensor:
        (rows, found), _ = padded(m, x, lengths)
        mask = torch.arange(rows.shape[1]) < found.unsqueeze(1)
        weights = m.score(rows).squeeze(-1).masked_fill(~mask, -1e9).softmax(1)
        return (weights.unsqueeze(-1) * rows).sum(1)

    conversion = tracer.convert(Of(forward, net=lstm(), score=nn.LazyLinear(1)), (ROWS, LENGTHS), route="direct")
    assert conversion.verification is not None
    assert conversion.report.outputs == ["float32[N, 4]"]


@pytest.mark.parametrize(
    ("use", "fault"),
    [
        (lambda p, x: [x[: int(rows)] for rows in p.batch_sizes], "as a fixed number, which depends on the data"),
        (lambda p, x: p.batch_sizes.tolist(), r"needs the data of step_counts int64\[u0\]"),
        (lambda p, x: x if p.batch_sizes.size(0) > 3 else -x, "whether u0 >= 4 depends on the data"),
        (
            lambda p, x: pad_packed_sequence(p, True, total_length=x.shape[1] - 1),
            "depends on the data: u0 is the length",
        ),
        (lambda p, x: pad_packed_sequence(p, True, total_length=4), "whether u0 >= 5 depends on the data"),
    ],
)
def test_what_asks_for_the_data_is_refused(use: Any, fault: str) -> None:
    def forward(m: Any, x: Tensor, lengths: Tensor) -> Any:
        return use(pack_padded_sequence(x, lengths, True), x)

    with pytest.raises(TracerError, match=fault) as info:
        propagated(Of(forward), *RUN)
    assert "test_lengths.py:" in str(info.value)


def test_lengths_as_a_list_of_numbers_that_data_decides() -> None:
    model = Of(lambda m, x, lengths: padded(m, x, lengths.tolist(), total_length=x.shape[1]), net=lstm())
    with pytest.raises(TracerError, match=r"needs the data of tensors_1|needs the data of inputs_1") as info:
        tracer.inspect(model, (ROWS, LENGTHS))
    assert "pack_padded_sequence" in info.value.remedy


# What does not fit ----------------------------------------------------------------------------------


def packed_as(lengths: Any, **options: Any) -> Of:
    return Of(lambda m, x: m.net(pack_padded_sequence(x, lengths, True, **options))[1], net=lstm())


@pytest.mark.parametrize(
    ("lengths", "fault"),
    [
        ([7, 3], "a sequence of length 7 is packed, but there are only 6 steps"),
        ([3, 0], r"lengths of at least 1, found \[3, 0\]"),
        ([1, 3], r"the lengths of packed sequences must fall, found \[1, 3\]"),
        ([3], r"a length for each row of float32\[2, 6, 3\], found \[1\]"),
        ([[3, 2]], "a length for each row"),
    ],
)
def test_lengths_that_do_not_fit(lengths: Any, fault: str) -> None:
    """Torch refuses them, too."""
    with pytest.raises(RuntimeError):
        packed_as(lengths)(torch.randn(2, 6, 3))
    with pytest.raises(ShapeError, match=fault):
        propagated(packed_as(lengths), torch.randn(2, 6, 3))


def test_what_a_layer_is_given_does_not_fit() -> None:
    def forward(m: Any, x: Tensor, lengths: Tensor, h: Tensor) -> Any:
        return m.net(pack_padded_sequence(x, lengths, True), h)[1]

    for state, fault in (
        ((1, 7, 4), "the initial state is of 7 rows, but 2 were packed"),
        ((1, 2, 5), r"initial state 0 needs the shape \[1, 2, 4\], found float32\[1, 2, 5\]"),
        ((2, 4), r"initial state 0 needs the shape \[1, 2, 4\], found float32\[2, 4\]"),
    ):
        sample = (torch.randn(2, 6, 3), torch.tensor([6, 2]), torch.randn(state))
        model = Of(forward, net=nn.GRU(3, 4, batch_first=True))
        with pytest.raises((RuntimeError, AssertionError)):
            model(*sample)
        with pytest.raises(ShapeError, match=fault):
            propagated(model, *sample)
    with pytest.raises(ShapeError, match="input_size is 3, but the input has 4 features"):
        propagated(packed_as([3, 2]), torch.randn(2, 6, 4))
    with pytest.raises(ShapeError, match="a tensor of at least 2 axes, found"):
        propagated(Of(lambda m, x: pack_padded_sequence(x, [3]).data), torch.randn(3))


def test_a_packed_sequence_is_no_sample() -> None:
    packed = pack_sequence([torch.randn(3, 4), torch.randn(2, 4)])
    with pytest.raises(InputError, match="input is a packed sequence"):
        tracer.inspect(nn.LSTM(4, 6), (packed,))
