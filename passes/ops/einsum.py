"""Sums of products along named axes: einsum, and what is one by another name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from string import ascii_letters
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from passes.errors import ShapeError, check
from passes.ops.axes import axes_of
from passes.ops.integer_reduction import exact_sum
from passes.ops.layout import transposed
from passes.ops.matmul import SUMMED_IN, in_wider, times
from passes.ops.op import Op
from passes.ops.promotion import broadcast, broadcast_shapes, promote
from passes.ops.record import Record, T, star
from passes.sizes.dimension import Size, product, same_size
from passes.sizes.floating import fixed
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value

DOTS = "..."
# How many axes tensordot sums over, or which of either operand.
Dims: TypeAlias = "int | Sequence[Sequence[int]]"
# Stands in a term for one axis of its ellipsis, numbered from the back.
Label = str | int


@dataclass(frozen=True, slots=True)
class Equation:
    """An einsum equation read against its operands: every term's axes by label, and the size of each label.

    A letter names an axis. A number is an axis of the ellipsis, counted from the back, so that operands whose
    ellipses have unlike ranks broadcast.
    """

    terms: tuple[tuple[Label, ...], ...]
    output: tuple[Label, ...]
    sizes: dict[Label, Size]

    @property
    def text(self) -> str:
        """The equation in letters alone."""
        unused = iter(letter for letter in ascii_letters if letter not in self.sizes)
        names = {label: label if isinstance(label, str) else next(unused) for label in self.sizes}
        spelled = ["".join(names[label] for label in term) for term in (*self.terms, self.output)]
        return f"{','.join(spelled[:-1])}->{spelled[-1]}"


def read_equation(equation: str, operands: Sequence[TensorSpec | Value]) -> Equation:
    """Raises ShapeError where the equation does not fit the operands."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    texts = left.split(",")
    check(len(texts) == len(operands), "{!r} has {} terms for {} operands", equation, len(texts), len(operands))
    terms = tuple(_labels(text, len(operand.shape), equation) for text, operand in zip(texts, operands, strict=True))
    sizes: dict[Label, Size] = {}
    for term, operand in zip(terms, operands, strict=True):
        own: dict[Label, Size] = {}
        for label, size in zip(term, operand.shape, strict=True):
            check(
                own.setdefault(label, size) == size,
                "{!r}: {} is {} and {} in one term",
                equation,
                label,
                own[label],
                size,
            )
        for label, size in own.items():
            known = sizes.get(label, 1)
            try:
                (sizes[label],) = broadcast_shapes((known,), (size,))
            except ShapeError as error:
                name = label if isinstance(label, str) else "an axis of ..."
                raise ShapeError(
                    f"{equation!r}: {name} is {known} in one operand and {size} in another",
                    remedy="give axes of different sizes letters of their own, or transpose an operand",
                ) from error
    dots = tuple(sorted((label for label in sizes if isinstance(label, int)), reverse=True))
    letters = [label for term in terms for label in term if isinstance(label, str)]
    output: tuple[Label, ...]
    if arrow:
        before, found, after = right.partition(DOTS)
        output = (*before, *(dots if found else ()), *after)
        check(len(set(output)) == len(output), "{!r} names an axis of the result twice", equation)
        check(set(output) <= set(sizes), "{!r}: the result has axes that no operand has", equation)
    else:
        output = (*dots, *sorted(letter for letter in set(letters) if letters.count(letter) == 1))
    return Equation(terms, output, sizes)


def _labels(text: str, ndim: int, equation: str) -> tuple[Label, ...]:
    before, found, after = text.partition(DOTS)
    named = len(before) + len(after)
    check(all(letter in ascii_letters for letter in before + after), "{!r} is no equation", equation)
    fits = named <= ndim if found else named == ndim
    check(
        fits,
        "{!r}: the term {!r} names {} axes of a tensor that has {}",
        equation,
        text,
        named,
        ndim,
        remedy="give the term a letter for each of the {3} axes",
    )
    return (*before, *range(ndim - named)[::-1], *after)


@dataclass(frozen=True, slots=True)
class Einsum(Record[T]):
    equation: str
    operands: tuple[T, ...] = star()


einsum = Op("einsum", Einsum, functions=(torch.functional.einsum,), view=True)


@einsum.shape
def einsum_shape(call: Einsum[TensorSpec]) -> TensorSpec:
    operands = call.operands
    check(len(operands) >= 1, "einsum is given no operands")
    found = read_equation(call.equation, operands)
    first = operands[0]
    for operand in operands:
        check(operand.dtype == first.dtype, "einsum takes one dtype, found {} and {}", first.dtype, operand.dtype)
    dtype = first.dtype if first.dtype.is_floating_point else _summed_dtype(found.text, operands)
    return TensorSpec(tuple(found.sizes[label] for label in found.output), dtype, first.device)


def _summed_dtype(equation: str, operands: Sequence[TensorSpec]) -> torch.dtype:
    """The dtype of an einsum of integers or bool: sums over one operand are int64, products of matrices are not.

    Which sums torch takes first depends on the equation, so that it is asked, on tensors without data.
    """
    try:
        return torch.einsum(equation, *(operand.meta_tensor() for operand in operands)).dtype
    except RuntimeError as error:
        raise ShapeError(f"torch refuses einsum: {str(error).splitlines()[0]}") from error


@einsum.lower
def lower_einsum(emit: Emitter, call: Einsum[Value]) -> Value:
    """Einsum. It says nothing of an axis of 1 that stands for another size, so such axes are taken away first."""
    found = read_equation(call.equation, call.operands)
    terms, values = [], []
    for term, operand in zip(found.terms, call.operands, strict=True):
        kept = [
            axis
            for axis, label in enumerate(term)
            if not same_size(operand.shape[axis], 1) or same_size(found.sizes[label], 1)
        ]
        gone = [axis for axis in range(operand.ndim) if axis not in kept]
        terms.append(tuple(term[axis] for axis in kept))
        values.append(emit.squeeze(operand, *gone) if gone else operand)
    written = replace(found, terms=tuple(terms))
    if not call.operands[0].dtype.is_floating_point:
        return _of_integers(emit, written, values)
    return _products(emit, written, values)


def _products(emit: Emitter, equation: Equation, values: Sequence[Value]) -> Value:
    plan = _as_matrices(equation)
    if plan is None:
        return in_wider(emit, "Einsum", *values, wider=SUMMED_IN, equation=equation.text)
    return in_wider(emit, "MatMul", *(transposed(emit, values[place], order) for place, order in plan), wider=SUMMED_IN)


def _of_integers(emit: Emitter, equation: Equation, values: Sequence[Value]) -> Value:
    """What one operand alone is summed over is summed exactly, and first, as torch does, which widens it to int64."""
    terms, summed = list(equation.terms), list(values)
    dtype = emit.result.dtype
    for place, term in enumerate(terms):
        others = {label for other, labels in enumerate(terms) if other != place for label in labels}
        alone = [axis for axis, label in enumerate(term) if label not in others and label not in equation.output]
        if not alone or len(set(term)) < len(term):
            continue
        wide = emit.cast(summed[place], torch.int64)
        total = exact_sum(emit, type(wide)(wide.name, values[place].known.with_dtype(torch.int64)), alone, False)
        terms[place] = tuple(label for axis, label in enumerate(term) if axis not in alone)
        shape = [size for axis, size in enumerate(values[place].shape) if axis not in alone]
        summed[place] = type(total)(total.name, TensorSpec(tuple(shape), torch.int64))
    if any(value.dtype != summed[0].dtype for value in summed):
        if len(summed) > 2:
            emit.unsupported("of which dtype torch's products of some operands with sums of others are is not known")
        summed = [replace(emit.cast(value, torch.int64), spec=value.known.with_dtype(torch.int64)) for value in summed]
    result = _products(emit, replace(equation, terms=tuple(terms)), summed)
    return result if summed[0].dtype == dtype else emit.cast(result, dtype)


def _as_matrices(equation: Equation) -> list[tuple[int, tuple[int, ...]]] | None:
    """The operands, by position, with the order of axes in which their matrix product is the result, if there is one.

    A runtime multiplies matrices faster than it reads equations, and empty ones too.
    """
    if len(equation.terms) != 2 or len(equation.output) < 2:
        return None
    *batch, row, column = equation.output
    for left, right in ((0, 1), (1, 0)):
        first, second = equation.terms[left], equation.terms[right]
        summed = [label for label in first if label not in equation.output]
        if len(summed) != 1:
            continue
        rows, columns = (*batch, row, *summed), (*batch, *summed, column)
        if _permuted(first, rows) and _permuted(second, columns):
            return [(left, tuple(map(first.index, rows))), (right, tuple(map(second.index, columns)))]
    return None


def _permuted(term: tuple[Label, ...], wanted: tuple[Label, ...]) -> bool:
    return len(term) == len(wanted) and set(term) == set(wanted)


@einsum.cost
def einsum_cost(result: TensorSpec, call: Einsum[TensorSpec]) -> Size:
    """One multiplication per operand after the first, for every combination of positions."""
    return product(read_equation(call.equation, call.operands).sizes.values()) * (len(call.operands) - 1)


def _contraction(first: int, second: int, left: Sequence[int], right: Sequence[int]) -> str:
    """The equation that sums over pairs of axes of tensors with that many axes."""
    labels = iter(ascii_letters)
    a = [next(labels) for _ in range(first)]
    shared = dict(zip(right, left, strict=True))
    b = [a[shared[axis]] if axis in shared else next(labels) for axis in range(second)]
    kept = [letter for axis, letter in enumerate(a) if axis not in left]
    kept += [letter for axis, letter in enumerate(b) if axis not in shared]
    return f"{''.join(a)},{''.join(b)}->{''.join(kept)}"


@dataclass(frozen=True, slots=True)
class Tensordot(Record[T]):
    a: T
    b: T
    dims: Dims = 2


tensordot = Op("tensordot", Tensordot, functions=(torch.functional.tensordot,))


def _tensordot_equation(first: TensorSpec | Value, second: TensorSpec | Value, dims: Any) -> str:
    ranks = len(first.shape), len(second.shape)
    dims = fixed(dims)
    if isinstance(dims, int):
        check(0 <= dims <= min(ranks), "{} axes cannot be summed over, of tensors with {} and {}", dims, *ranks)
        left, right = tuple(range(ranks[0] - dims, ranks[0])), tuple(range(dims))
    else:
        check(isinstance(dims, (tuple, list)) and len(dims) == 2, "dims is a number or two lists, not {}", dims)
        check(all(ranks), "a 0-d tensor has no axis to sum over, found {} and {}", first, second)
        left, right = axes_of(dims[0], ranks[0]), axes_of(dims[1], ranks[1])
        check(len(left) == len(right), "{} axes cannot be paired with {}", len(left), len(right))
    return _contraction(*ranks, left, right)


@tensordot.shape
def tensordot_shape(call: Tensordot[TensorSpec]) -> TensorSpec:
    return einsum_shape(Einsum(_tensordot_equation(call.a, call.b, call.dims), (call.a, call.b))).with_dtype(
        call.a.dtype
    )


@tensordot.lower
def lower_tensordot(emit: Emitter, call: Tensordot[Value]) -> Value:
    return lower_einsum(emit, Einsum(_tensordot_equation(call.a, call.b, call.dims), (call.a, call.b)))


@tensordot.cost
def tensordot_cost(result: TensorSpec, call: Tensordot[TensorSpec]) -> Size:
    return einsum_cost(result, Einsum(_tensordot_equation(call.a, call.b, call.dims), (call.a, call.b)))


@dataclass(frozen=True, slots=True)
class Inner(Record[T]):
    input: T
    other: T


inner = Op("inner", Inner, functions=(torch.inner,), methods=("inner",))


def _inner_equation(first: TensorSpec | Value, second: TensorSpec | Value) -> str:
    ranks = len(first.shape), len(second.shape)
    return _contraction(*ranks, [ranks[0] - 1], [ranks[1] - 1]) if all(ranks) else _contraction(*ranks, [], [])


@inner.shape
def inner_shape(call: Inner[TensorSpec]) -> TensorSpec:
    input, other = call.input, call.other
    if input.ndim and other.ndim:
        sizes = input.shape[-1], other.shape[-1]
        check(sizes[0] == sizes[1], "an inner product takes equal last axes, found {} and {}", *sizes)
    else:
        return broadcast(input, other)
    return einsum_shape(Einsum(_inner_equation(input, other), (input, other))).with_dtype(input.dtype)


@inner.lower
def lower_inner(emit: Emitter, call: Inner[Value]) -> Value:
    input, other = call.input, call.other
    if not (input.ndim and other.ndim):
        return times(emit, *promote(emit, input, other))
    return lower_einsum(emit, Einsum(_inner_equation(input, other), (input, other)))


@inner.cost
def inner_cost(result: TensorSpec, call: Inner[TensorSpec]) -> Size:
    return result.numel() * (call.input.shape[-1] if call.input.ndim and call.other.ndim else 1)
