"""What is told of a report, in words: the columns of its table, its totals, shapes and sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from passes.printable import printable

if TYPE_CHECKING:
    from tracer.reports.data import Layer, ReportData


def totals(report: ReportData) -> Iterator[tuple[str, str]]:
    """What is known of the model as a whole, by name."""
    yield "params", f"{report.params:,}"
    yield "mult-adds", "; ".join([_at_sample(report), *report.counted])
    yield "weights", file_size(report.weight_bytes)
    yield "peak", f"{file_size(report.peak_bytes)} of activations at {report.peak_at}{_sampled(report)}"


def _at_sample(report: ReportData) -> str:
    if isinstance(report.macs, int):
        return f"{report.macs:,}"
    return f"{report.macs} = {report.macs_sampled:,}{_sampled(report)}"


def _sampled(report: ReportData) -> str:
    sizes = ", ".join(f"{name}={size}" for name, size in report.sampled.items())
    return f" ({sizes})" if sizes else ""


def promised(report: ReportData) -> Iterator[tuple[str, str]]:
    """The constraints on named sizes that the caller gave."""
    if report.constraints:
        yield "made for", ", ".join(report.constraints)


def stated(report: ReportData) -> Iterator[tuple[str, str]]:
    """For which named sizes everything holds, in one sentence."""
    if report.statement:
        yield "valid", report.statement.removeprefix("valid ")


def from_data(report: ReportData) -> Iterator[tuple[str, str]]:
    """The sizes that only the data say, and what must be so of them."""
    yield from (("from data", size) for size in report.from_data)
    yield from (("model needs", f"{guard}, or fails on that data") for guard in report.required)


def followed(report: ReportData) -> Iterator[str]:
    """How the model was followed: the rungs that were taken in place of tracing."""
    names = {"meta": "on meta tensors", "real": "on data"}
    for rung in report.rungs:
        unknown = rung.path or report.model
        guards = "; what it asks of named sizes is not known" if unknown in report.guards_unknown else ""
        yield f"{unknown} {names[rung.level]}, not counted inside: {rung.reason}{guards}"
    if not report.rungs:
        yield "traced"


def inferred(layer: Layer) -> str:
    """`in_features=400`, or nothing for a layer that was not lazy."""
    return printable(", ".join(f"{name}={size}" for name, size in layer.resolved.items()))


def shape(sizes: Sequence[Any]) -> str:
    """`N x 64 x H//2 x W//2`; several outputs one after the other."""
    if any(isinstance(size, list) for size in sizes):
        return ", ".join(map(shape, sizes))
    return " x ".join(_axis(size) for size in sizes) if sizes else "scalar"


def _axis(size: int | str) -> str:
    """A size without spaces; a sum in parentheses, since `x` stands between the sizes."""
    text = str(size).replace(" ", "")
    return text if _is_enclosed(text) else f"({text})"


def _is_enclosed(text: str) -> bool:
    """Whether every sign stands in parentheses: `(H+31)//32`."""
    depth = 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if character in "+-" and depth == 0:
            return False
    return True


def file_size(size: int) -> str:
    """A number of bytes in three digits: `1.23 MB`."""
    amount = float(size)
    for unit in ("bytes", "kB", "MB"):
        if amount < 999.5:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:,.3g} GB"


@dataclass(frozen=True, slots=True)
class Column:
    """What is told of each layer under one heading; `style` is how a terminal shows it."""

    heading: str
    text: Callable[[Layer], str]
    style: str = ""
    is_number: bool = False


COLUMNS = (
    Column("layer", lambda layer: printable(layer.path), "bold"),
    Column("type", lambda layer: printable(layer.type)),
    Column("input", lambda layer: ", ".join(map(shape, layer.input_shapes))),
    Column("output", lambda layer: shape(layer.output_shape)),
    Column("params", lambda layer: f"{layer.params:,}" if layer.params else "-", is_number=True),
    Column("mult-adds", lambda layer: f"{layer.macs_sampled:,}" if layer.macs_sampled else "-", is_number=True),
    Column("inferred", lambda layer: inferred(layer), "green"),
    Column("from", lambda layer: printable(layer.inferred_from or "")),
)


def kept(report: ReportData) -> Iterator[tuple[str, str]]:
    """The tensors of the model that are inputs and outputs of its file, by name."""
    for state in report.state:
        at = "" if state.input == state.path else f" ({state.path})"
        yield "state", f"{state.input} {state.spec}{at}, afterwards {state.output}"


def cautions(report: ReportData) -> Iterator[tuple[str, str]]:
    """What an export of the model does not do as the model does, by name."""
    if report.pinned:
        sizes = ", ".join(f"{name} = {size}" for name, size in report.pinned.items())
        yield "fixed", f"{sizes}: the guards hold at no other size"
    if report.left_behind:
        written = ", ".join(report.left_behind)
        remedy = "state=explicit (--state explicit) makes it an input and an output"
        yield "state", f"the forward writes {written}: the file does not keep that, but {remedy}"
