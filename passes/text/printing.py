"""A program as text (see `grammar`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from torch import fx

from passes.modules.batchnorm_folding import Fold
from passes.modules.lazy import LazyLayer, is_lazy
from passes.program.notes import ORDINAL, VALUE, location_of
from passes.program.program import Program, Rung
from passes.program.regions import begins_region, ends_region
from passes.program.stages import Eager, Shaped, Unresolved
from passes.sizes.guards import Guard, Location
from passes.text.grammar import (
    BEFORE_ITS_HOOK,
    BY_ITS_OWN_CODE,
    CONSTRAINTS,
    DRAWS,
    DRAWS_IN_PYTHON,
    FOLDS,
    GUARDS,
    INPUTS,
    KEPT,
    LAZIES,
    LEFT_BEHIND,
    NODES,
    OF_THE_SAMPLE,
    OPERATIONS,
    PLAIN_CONDITION,
    READ,
    SIZES,
    STAGES,
    UNREACHED,
    UNTRACED,
    WHOLE,
)
from passes.text.qualified_names import qualified_name
from passes.text.scanner import name_text, quoted, word_text
from passes.text.values import arguments_text, value_text
from passes.values.spec import shape_text


def print_program(program: Program) -> str:
    """The program's text, one line a node; `program_parsing.parse_program` reads it.

    Inputs come first, and everything else in the order in which the program has it.
    """
    stage = next(word for word, kind in STAGES.items() if isinstance(program, kind))
    lines = [f"{stage} program {name_text(type(program.root).__name__)}"]
    for title, entries in _sections(program):
        body = [f"  {entry}" for entry in entries]
        if body:
            lines += [title, *body]
    if isinstance(program, Unresolved) and program.draws_in_python:
        lines.append(DRAWS_IN_PYTHON)
    return "\n".join(lines) + "\n"


def _sections(program: Program) -> Iterator[tuple[str, Iterable[str]]]:
    inputs = program.inputs()
    nodes = set(program.graph.nodes)
    draws = [draw for draw in _draws(program) if isinstance(draw, LazyLayer) or draw in nodes]
    yield SIZES, (_size_line(name, program) for name in program.log.sampled)
    yield CONSTRAINTS, program.log.constraints()
    yield INPUTS, (_node_line(node, program) for node in inputs)
    yield GUARDS, map(_guard_line, program.log.recorded)
    yield LAZIES, (_lazy_line(layer, program) for layer in program.lazies.values())
    if isinstance(program, (Shaped, Eager)):
        yield UNREACHED, map(name_text, program.unreached)
    yield UNTRACED, map(_rung_line, program.rungs)
    yield WHOLE, [name_text(program.whole)] if program.whole is not None else []
    if isinstance(program, Eager):
        yield FOLDS, (_fold_line(path, fold) for path, fold in program.folds.items())
    yield LEFT_BEHIND, map(name_text, program.left_behind)
    yield KEPT, map(name_text, program.kept)
    yield READ, map(name_text, program.read)
    yield NODES, _node_lines(program)
    if any(isinstance(draw, fx.Node) for draw in draws):
        yield DRAWS, (name_text(draw.path) if isinstance(draw, LazyLayer) else f"%{draw.name}" for draw in draws)


def _draws(program: Program) -> Sequence[LazyLayer | fx.Node]:
    return program.draws if isinstance(program, Unresolved) else ()


def _size_line(name: str, program: Program) -> str:
    given = program.log.given.get(name)
    return f"{name} = {program.log.sampled[name]}" + (f", given {given}" if given is not None else "")


def _guard_line(guard: Guard) -> str:
    condition = guard.condition if PLAIN_CONDITION.fullmatch(guard.condition) else quoted(guard.condition)
    return _fields(condition, "" if guard.dynamic else OF_THE_SAMPLE, _place(guard.location))


def _lazy_line(layer: LazyLayer, program: Program) -> str:
    sizes = [f"{name_text(name)}={value_text(size)}" for name, size in layer.inference.attributes.items()]
    sizes += [f"{name_text(name)}{shape_text(shape)}" for name, shape in layer.inference.shapes.items()]
    return _fields(
        f"{name_text(layer.path)}: {name_text(layer.type)}({arguments_text(layer.args, layer.kwargs)})",
        "" if layer.by_rule else BY_ITS_OWN_CODE,
        BEFORE_ITS_HOOK if layer.hook is not None and is_lazy(program.module(layer.path)) else "",
        ", ".join(sizes),
        _place(layer.location, layer.path),
    )


def _rung_line(rung: Rung) -> str:
    reasons = f"{rung.level} {quoted(rung.reason)} {quoted(rung.remedy)}"
    return _fields(f"{name_text(rung.path)}: {reasons}", _place(rung.location, rung.path))


def _fold_line(path: str, fold: Fold) -> str:
    groups = f", groups={fold.groups}" if fold.groups is not None else ""
    return f"{name_text(path)}: {name_text(fold.layer)}, {name_text(fold.norm)}, eps={fold.eps!r}{groups}"


def _node_lines(program: Program) -> Iterator[str]:
    """The nodes but for the inputs; those within a region stand further in."""
    depth = 0
    for node in program.graph.nodes:
        depth -= ends_region(node)
        if node.op != "placeholder":
            yield "  " * depth + _node_line(node, program)
        depth += begins_region(node)


def _node_line(node: fx.Node, program: Program) -> str:
    own_path = program.path(node) if node.op == "call_module" else ""
    name = "" if (node.op, node.name) == ("output", "output") else f"%{node.name} = "
    if node.op == "output":  # its value is that of its operands
        return _fields(f"{name}output {value_text(node.args[0])}", _place(location_of(node)))
    target = name_text(_target(node))
    call = f"#{ORDINAL.of(node)}" if ORDINAL.get(node) else ""
    arguments = f"({arguments_text(node.args, node.kwargs)})"
    if arguments == "()" and node.op in ("placeholder", "get_attr"):
        arguments = ""
    return _fields(
        f"{name}{OPERATIONS[node.op]} {target}{call}{arguments}",
        f": {value_text(VALUE.of(node))}" if VALUE.on(node) else "",
        _place(location_of(node), own_path),
    )


def _target(node: fx.Node) -> str:
    if node.op != "call_function":
        return str(node.target)
    # One that has no name at which it is found is shown by the name it gives itself, which is not read.
    shown = f"{getattr(node.target, '__module__', '')}.{getattr(node.target, '__qualname__', type(node.target))}"
    return qualified_name(node.target) or shown


def _place(location: Location, own_path: str = "") -> str:
    """The line and the module path, where that is another than what stands before it."""
    line = f"at {word_text(location.source)}" if location.source is not None else ""
    path = f"in {name_text(location.path)}" if location.path != own_path else ""
    return " ".join(filter(None, (line, path)))


def _fields(*parts: str) -> str:
    """The parts that there are, with two blanks between them."""
    return "  ".join(filter(None, parts))
