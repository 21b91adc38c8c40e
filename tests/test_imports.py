"""No module needs itself: the imports of both packages have no cycle, with those for types and within functions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGES = ("tracer", "passes")


def module_files() -> dict[str, Path]:
    files = (file for package in PACKAGES for file in (REPOSITORY / package).rglob("*.py"))
    return {
        ".".join(file.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): file for file in files
    }


def imported(tree: ast.Module, module: str, is_package: bool) -> Iterator[str]:
    """Every dotted name that the source imports, wherever in it; of `from a import b` both `a.b` and `a`."""
    for statement in ast.walk(tree):
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            parts = module.split(".")
            above = parts[: len(parts) - statement.level + is_package] if statement.level else []
            source = ".".join([*above, *filter(None, [statement.module])])
            yield from (f"{source}.{alias.name}" for alias in statement.names)


def known(name: str, modules: dict[str, Path]) -> str | None:
    """The module that a name is, or is an attribute of."""
    if name in modules:
        return name
    home = name.rpartition(".")[0]
    return home if home in modules else None


def import_graph(modules: dict[str, Path]) -> nx.DiGraph:
    graph = nx.DiGraph()
    graph.add_nodes_from(modules)
    for module, file in modules.items():
        names = imported(ast.parse(file.read_text(encoding="utf-8")), module, file.name == "__init__.py")
        graph.add_edges_from((module, found) for name in names if (found := known(name, modules)) and found != module)
    # The package of the ops imports each of its modules, whose names its source does not say.
    graph.add_edges_from(("passes.ops", module) for module in modules if module.startswith("passes.ops."))
    return graph


def test_the_imports_have_no_cycle() -> None:
    graph = import_graph(module_files())
    cycles = [nx.find_cycle(graph.subgraph(part)) for part in nx.strongly_connected_components(graph) if len(part) > 1]
    assert not cycles, "\n".join(" -> ".join([*(edge[0] for edge in cycle), cycle[-1][1]]) for cycle in cycles)


def test_every_module_is_in_the_graph() -> None:
    graph = import_graph(module_files())
    assert graph.has_edge("tracer.commands.step_lists", "tracer.steps.delivery")  # within a function
    assert graph.has_edge("tracer.capture.values.aliasing", "tracer.capture.values.tensor")  # for types alone
    assert graph.has_edge("tracer.steps.work", "passes.ops")  # a package


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import passes.values.spec", "passes.values.spec"),
        ("from passes.values import spec", "passes.values.spec"),
        ("from passes.values.spec import TensorSpec", "passes.values.spec"),
        ("from . import spec", "passes.values.spec"),
        ("from .spec import TensorSpec", "passes.values.spec"),
        ("def f():\n    from passes.values.spec import TensorSpec", "passes.values.spec"),
        ("if TYPE_CHECKING:\n    from passes.values.spec import TensorSpec", "passes.values.spec"),
    ],
)
def test_an_import_is_found(source: str, expected: str) -> None:
    modules = module_files()
    names = imported(ast.parse(source), "passes.values.nested", is_package=False)
    assert [known(name, modules) for name in names] == [expected]
