"""The folders and files of the two packages: how much is in each, what a folder says of itself, and imports one way."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
FILES = sorted(path for package in ("tracer", "passes") for path in (REPOSITORY / package).rglob("*.py"))
ROOMS = sorted({path.parent for path in FILES})
# `tracer` shows the public names, `passes.ops` registers its families, the console script is `tracer.cli:main`.
WITH_CODE = {"tracer", "passes.ops", "tracer.cli"}
LONGEST = 500  # lines of a file


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


def imported(file: Path) -> Iterator[str]:
    """What a file imports, anywhere in it: in functions and for annotations too."""
    modules = {dotted(path) for path in FILES}
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in modules else node.module


def room(module: str) -> str:
    """The folder that a module lies in; a module beside the rooms is a room by itself."""
    parts = module.split(".")
    return ".".join(parts[:-1] if len(parts) > 2 and not (REPOSITORY / "/".join(parts)).is_dir() else parts)


def edges() -> set[tuple[str, str]]:
    """Which room imports from which. The face of the tool, which names everything in it, is left out."""
    found = {
        (room(dotted(file)), room(name))
        for file in FILES
        for name in imported(file)
        if name.split(".")[0] in ("tracer", "passes")
    }
    return {(source, target) for source, target in found if source != target and "tracer" not in (source, target)}


def cycle(edges: set[tuple[str, str]]) -> list[str] | None:
    sorter = TopologicalSorter[str]()
    for source, target in edges:
        sorter.add(source, target)
    try:
        sorter.prepare()
    except CycleError as error:
        return list(error.args[1])
    return None


@pytest.mark.parametrize("folder", ROOMS, ids=dotted)
def test_a_room_can_be_taken_in_at_a_glance(folder: Path) -> None:
    beside = {"__init__.py", "__main__.py", "__pycache__", "py.typed"}
    entries = [path.name for path in folder.iterdir() if path.name not in beside]
    assert 1 <= len(entries) <= 14 or folder.name == "ops", sorted(entries)


@pytest.mark.parametrize("folder", ROOMS, ids=dotted)
def test_a_room_says_what_it_is_for_and_nothing_else(folder: Path) -> None:
    tree = ast.parse((folder / "__init__.py").read_text())
    assert ast.get_docstring(tree)
    assert len(tree.body) == 1 or dotted(folder / "__init__.py") in WITH_CODE


@pytest.mark.parametrize("package", ["tracer", "passes", "tests"])
def test_a_file_can_be_read_in_one_go(package: str) -> None:
    files = (REPOSITORY / package).rglob("*.py")
    lengths = {dotted(path): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert lengths
    assert not {name: length for name, length in lengths.items() if length > LONGEST}


def test_imports_between_folders_run_one_way() -> None:
    assert cycle(edges()) is None


def test_every_room_is_in_the_wheel() -> None:
    settings = (REPOSITORY / "pyproject.toml").read_text()
    assert '[tool.setuptools.packages.find]\ninclude = ["tracer*", "passes*"]' in settings
    assert not [path for path in FILES if not (path.parent / "__init__.py").is_file()]
