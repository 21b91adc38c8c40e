"""A program from its text (see `grammar`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import fx, nn

from passes.errors import LoadError, TracerError
from passes.modules.batchnorm_folding import Fold
from passes.modules.lazy import LazyLayer, initialising_hook, is_lazy
from passes.ops.op import Inference, map_leaves
from passes.program.notes import CALL, ORDINAL, PLACE, VALUE
from passes.program.program import Program, Rung
from passes.program.regions import called_within
from passes.program.stages import Captured, Eager, Shaped, Unresolved
from passes.sizes.dimension import Dim
from passes.sizes.guards import GuardLog, Location
from passes.stages.shape_propagation import bind_call
from passes.text.constraints import parse_constraint
from passes.text.formulas import read_fact
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
    SECTIONS,
    SIZES,
    STAGES,
    UNREACHED,
    UNTRACED,
    WHOLE,
)
from passes.text.qualified_names import find
from passes.text.scanner import NAME, QUOTED, MalformedTextError, Scanner
from passes.text.values import ValueReader

Stage = TypeVar("Stage", bound=Program)

# How an attribute or a tensor of a lazy layer begins.
_INFERRED = rf"({NAME}|{QUOTED})[=\[]"
_KINDS = {word: kind for kind, word in OPERATIONS.items()}
_OPERATION = rf"({'|'.join(_KINDS)})(?!\w)"


def parse_program(
    text: str,
    root: nn.Module,
    constants: Mapping[str, torch.Tensor] | None = None,
    added: Mapping[str, nn.Module] | None = None,
) -> Program:
    """The program with this text.

    `root` has the modules and tensors that its nodes name; `constants` and `added` are those that the root does not
    hold, as in `Eager`. Nothing is run, no module is loaded. Raises LoadError, with the line, for
    what is no such text.
    """
    return _ProgramReader(root, constants or {}, added or {}).read(text)


class _ProgramReader:
    """Builds a program line by line."""

    def __init__(self, root: nn.Module, constants: Mapping[str, torch.Tensor], added: Mapping[str, nn.Module]):
        self._root, self._constants, self._added = root, dict(constants), dict(added)
        self._log = GuardLog()
        self.program: Program = self._begun(Captured)  # until the first line names another stage
        self._values = ValueReader(self._log)
        self._guards: list[tuple[str, Location, bool]] = []
        self._draws: list[LazyLayer | fx.Node] = []
        self._entries: dict[str, Callable[[Scanner], object]] = {
            SIZES: self._size,
            CONSTRAINTS: self._constraint,
            INPUTS: self._node,
            GUARDS: self._guard,
            LAZIES: self._lazy,
            UNREACHED: self._unreached,
            UNTRACED: self._rung,
            WHOLE: self._whole,
            FOLDS: self._fold,
            LEFT_BEHIND: lambda scanner: self.program.left_behind.append(scanner.name("the path of an attribute")),
            KEPT: lambda scanner: self.program.kept.append(scanner.name("the path of a tensor")),
            READ: self._read_tensor,
            NODES: self._node,
            DRAWS: self._draw,
        }

    def read(self, text: str) -> Program:
        section = ""
        number = 0
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            scanner = Scanner(line)
            try:
                if line.startswith(" "):
                    self._entry(scanner, section)
                else:
                    section = self._title(scanner, section)
            except MalformedTextError as fault:
                raise _fault(number, f"column {fault.column + 1}: {fault.said_of(line)}") from fault
            except TracerError as error:
                raise _fault(number, error.message) from error
            except (OverflowError, RecursionError, ValueError) as error:  # a number of 5000 digits, 1000 brackets
                raise _fault(number, f"expected what can be read, found {type(error).__name__}: {error}") from error
        if not any(node.op == "output" for node in self.program.graph.nodes):
            raise _fault(number, "expected an output below, found the end of the text")
        self._settle()
        return self.program

    def _title(self, scanner: Scanner, before: str) -> str:
        """The section that a line begins, which comes after the section before it."""
        if not before:
            stage = STAGES[scanner.take("|".join(STAGES), f"{', '.join(STAGES)}")]
            self.program = self._begun(stage)
            scanner.expect("program")
            scanner.name("the name of the model's class")
            scanner.end()
            return "program"
        open_sections = SECTIONS[SECTIONS.index(before) + 1 :] if before in SECTIONS else SECTIONS
        title = scanner.line.rstrip(" ")
        if title not in open_sections:
            raise scanner.fault(" or ".join(map(repr, open_sections)) if open_sections else "the end of the text")
        if title == DRAWS_IN_PYTHON:
            self._of(scanner, Unresolved).draws_in_python = True
        return title

    def _begun(self, stage: type[Program]) -> Program:
        """A program of a stage without any node."""
        if stage is Eager:
            return Eager(fx.Graph(), self._root, self._log, constants=self._constants, added=self._added)
        return stage(fx.Graph(), self._root, self._log, constants=self._constants)

    def _of(self, scanner: Scanner, stage: type[Stage]) -> Stage:
        """The program, which has what only such programs have."""
        if not isinstance(self.program, stage):
            raise scanner.fault(f"what {type(self.program).__name__.lower()} programs have")
        return self.program

    def _entry(self, scanner: Scanner, section: str) -> None:
        read = self._entries.get(section)
        if read is None:
            raise scanner.fault("a section" if section else "the stage, 'program' and the name of the model's class")
        read(scanner)
        scanner.end()

    def _settle(self) -> None:
        """Records the guards, once all named sizes are known."""
        log = self._log
        for condition, location, dynamic in self._guards:
            log.location = location
            log.record(condition, dynamic=dynamic)
        facts = [read_fact(condition, log.sampled) for condition, _, dynamic in self._guards if dynamic]
        log.facts.assumed += [fact for fact in facts if fact is not None]
        log.location = Location()
        uncounted = called_within(self.program.graph)
        for node in self.program.graph.nodes:
            if node.target in uncounted:
                ORDINAL.drop(node)
        if self._draws and isinstance(self.program, Unresolved):
            self.program.draws = self._draws

    # Entries of the sections --------------------------------------------------------------------

    def _size(self, scanner: Scanner) -> None:
        name = scanner.take(r"[^\W\d]\w*", "the name of a size")
        scanner.expect("=")
        Dim.symbol(name, int(scanner.take(r"\d+", "a size")), self._log)
        if scanner.found(","):
            scanner.expect("given")
            self._log.given[name] = int(scanner.take(r"\d+", "a size"))

    def _constraint(self, scanner: Scanner) -> None:
        log = self.program.log
        text = scanner.take(r".+", "a constraint")
        log.facts.given = (*log.facts.given, *parse_constraint(text, log.sampled))

    def _guard(self, scanner: Scanner) -> None:
        quoted = scanner.rest().startswith('"')
        condition = scanner.string() if quoted else scanner.take(PLAIN_CONDITION.pattern, "a condition")
        dynamic = not scanner.found(OF_THE_SAMPLE)
        self._guards.append((condition, self._place(scanner), dynamic))

    def _lazy(self, scanner: Scanner) -> None:
        path, module = self._module(scanner)
        scanner.expect(":")
        kind = scanner.name("the name of a lazy class")
        args, kwargs = self._values.arguments(scanner)
        by_rule = not scanner.found(BY_ITS_OWN_CODE)
        hook = initialising_hook(module) if scanner.found(BEFORE_ITS_HOOK) else None
        inference = Inference({}, {})
        if scanner.is_before(_INFERRED):
            self._inferred(scanner, inference)
            while scanner.found(","):
                self._inferred(scanner, inference)
        layer = LazyLayer(path, kind, args, kwargs, inference, self._place(scanner, path), hook, by_rule)
        program = self.program
        if is_lazy(module) and isinstance(program, Unresolved):
            program.meet_lazy(layer)
            return
        program.lazies[path] = layer
        if isinstance(program, Unresolved):
            program.draws.append(layer)

    def _unreached(self, scanner: Scanner) -> None:
        if not isinstance(self.program, (Shaped, Eager)):
            raise scanner.fault("what captured programs have")
        self.program.unreached.append(scanner.name("a module path"))

    def _inferred(self, scanner: Scanner, inference: Inference) -> None:
        """An attribute `in_features=400` or a tensor `weight[10, 400]` of a lazy layer."""
        name = scanner.name("an attribute or a tensor")
        if scanner.found("="):
            inference.attributes[name] = self._values.value(scanner)
        else:
            inference.shapes[name] = self._values.shape(scanner)

    def _rung(self, scanner: Scanner) -> None:
        path, _ = self._module(scanner)
        scanner.expect(":")
        level = scanner.take("meta|real", "meta or real")
        reason, remedy = scanner.string(), scanner.string()
        self.program.rungs.append(Rung(path, level, reason, self._place(scanner, path), remedy))

    def _whole(self, scanner: Scanner) -> None:
        self.program.whole = scanner.name("the target that stands for the model")

    def _fold(self, scanner: Scanner) -> None:
        folds = self._of(scanner, Eager).folds
        path, _ = self._module(scanner)
        scanner.expect(":")
        layer = scanner.name("the path of a layer")
        scanner.expect(",")
        norm = scanner.name("the path of a batch norm")
        options: dict[str, Any] = {"eps": None, "groups": None}
        while scanner.found(","):
            option = scanner.take("eps|groups", "eps or groups")
            scanner.expect("=")
            options[option] = self._values.value(scanner)
        fold = Fold(layer, norm, **options)
        fold.check()
        folds[path] = fold

    def _read_tensor(self, scanner: Scanner) -> None:
        path = self._tensor(scanner)
        self.program.read[path] = self.program.tensor(path)

    def _draw(self, scanner: Scanner) -> None:
        self._of(scanner, Unresolved)
        if scanner.rest().startswith("%"):
            self._draws.append(self._values.node(scanner))
            return
        fault = scanner.fault("the path of one of the lazies, or a node")
        path = scanner.name(fault.expected)
        if path not in self.program.lazies:
            raise fault
        self._draws.append(self.program.lazies[path])

    # Nodes --------------------------------------------------------------------------------------

    def _node(self, scanner: Scanner) -> None:
        column = scanner.fault("").column
        name = "output"
        if scanner.found("%"):
            name = scanner.take(r"\w+", "the name of a node")
            scanner.expect("=")
        kind = _KINDS[scanner.take(_OPERATION, f"{', '.join(_KINDS)} or %")]
        node = self._output(scanner, name) if kind == "output" else self._call(scanner, kind, name)
        if node.name != name:
            raise MalformedTextError(f"a name that torch.fx gives, such as %{node.name}", column)
        self._values.nodes[name] = node

    def _output(self, scanner: Scanner, name: str) -> fx.Node:
        operands = self._values.value(scanner)
        node = self.program.graph.create_node("output", "output", (operands,), name=name)
        PLACE.put(node, self._place(scanner))
        if _all_shaped(node):
            VALUE.put(node, map_leaves(node.args[0], lambda leaf: VALUE.of(leaf)))
        return node

    def _call(self, scanner: Scanner, kind: str, name: str) -> fx.Node:
        target = self._target(scanner, kind)
        ordinal = int(scanner.take(r"\d+", "which call it is")) if scanner.found("#") else 0
        bare = kind in ("placeholder", "get_attr") and not scanner.rest().startswith("(")
        args, kwargs = ((), {}) if bare else self._values.arguments(scanner)
        node = self.program.graph.create_node(kind, target, args, kwargs, name)
        own_path = ""
        if kind == "call_module":
            ORDINAL.put(node, ordinal)
            own_path = self.program.path(node)
        if scanner.found(":"):
            VALUE.put(node, self._values.value(scanner))
        PLACE.put(node, self._place(scanner, own_path))
        if kind.startswith("call") and VALUE.on(node) and _all_shaped(node):
            call = bind_call(node, self.program)
            if call is not None:
                CALL.put(node, call)
        return node

    def _target(self, scanner: Scanner, kind: str) -> Any:
        if kind == "call_module":
            return self._module(scanner)[0]
        if kind == "get_attr":
            return self._tensor(scanner)
        if kind != "call_function":
            return scanner.name("a name")
        fault = scanner.fault("a function of a module that is loaded")
        try:
            function = find(scanner.name(fault.expected))
        except LookupError as error:
            raise fault from error
        if not callable(function):
            raise fault
        return function

    def _module(self, scanner: Scanner) -> tuple[str, nn.Module]:
        """The path of a module that there is, and the module."""
        fault = scanner.fault("the path of a module of the model")
        path = scanner.name(fault.expected)
        try:
            return path, self.program.module(path)
        except KeyError as error:
            raise fault from error

    def _tensor(self, scanner: Scanner) -> str:
        """The path of a tensor that there is."""
        fault = scanner.fault("the path of a tensor of the model")
        path = scanner.name(fault.expected)
        try:
            self.program.tensor(path)
        except (AssertionError, AttributeError, KeyError) as error:
            raise fault from error
        return path

    def _place(self, scanner: Scanner, own_path: str = "") -> Location:
        source = scanner.word("a source line") if scanner.found("at") else None
        return Location(scanner.name("a module path") if scanner.found("in") else own_path, source)


def _all_shaped(node: fx.Node) -> bool:
    return all(VALUE.on(operand) for operand in node.all_input_nodes)


def _fault(number: int, message: str) -> LoadError:
    return LoadError(f"line {number}: {message}", remedy="give the text as print_program writes it")


__all__ = ["parse_program"]
