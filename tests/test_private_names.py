"""What is private of torch's is named in one file, and each attribute of its objects that we read is one we check."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from passes import torch_private
from tests.test_torch_attributes import OF_MODULES

REPOSITORY = Path(__file__).parents[1]
FILES = sorted(file for package in ("tracer", "passes") for file in (REPOSITORY / package).rglob("*.py"))
HOME = REPOSITORY / "passes" / "torch_private.py"
CHECKS = REPOSITORY / "tests" / "test_torch_private.py"
# Checked in `test_torch_attributes.py`, too.
OTHERS_OF_TORCHS = {
    "_cdata", "_enabled", "_flat_weights_names", "_get_no_batch_dim", "_get_num_spatial_dims", "_initialize_hook",
    "_metadata", "_qkv_same_embed_dim", "_schema", "_version",
}  # fmt: skip
OF_PYTHONS = {
    "_asdict", "_at_fork_reinit", "_deepcopy_dispatch", "_fields", "_getframe", "_is_owned", "_lru_cache_wrapper",
    "_recursion_count", "_replace",
}  # fmt: skip


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def names_of_torch(tree: ast.Module) -> dict[str, str]:
    """What the names are that a file imports from torch."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(
                {a.asname or "torch": a.name if a.asname else "torch" for a in node.names if _of_torch(a.name)}
            )
        elif isinstance(node, ast.ImportFrom) and _of_torch(node.module or ""):
            found.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    return found


def _of_torch(module: str) -> bool:
    return module.split(".")[0] == "torch"


def private_names(source: str) -> Iterator[str]:
    """Everything private of torch's that a file names."""
    tree = ast.parse(source)
    known = names_of_torch(tree)

    def dotted(node: ast.expr) -> str | None:
        if isinstance(node, ast.Name):
            return known.get(node.id)
        inner = dotted(node.value) if isinstance(node, ast.Attribute) else None
        return f"{inner}.{node.attr}" if inner is not None and isinstance(node, ast.Attribute) else None

    named = [*known.values(), *(dotted(node) or "" for node in ast.walk(tree) if isinstance(node, ast.Attribute))]
    named += [
        a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names if _of_torch(a.name)
    ]
    yield from (name for name in named if any(is_private(part) or part == "_C" for part in name.split(".")))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_nothing_private_is_named_elsewhere(file: Path) -> None:
    found = {name.rpartition(".")[2] for name in private_names(file.read_text(encoding="utf-8"))}
    if file == HOME:
        assert found
    else:
        assert not found


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch._C._nn",
        "import torch._dynamo",
        "from torch._guards import TracingContext",
        "from torch.nn.modules.module import _WrappedHook",
        "from torch import nn\nx = nn.modules.conv._ConvNd",
        "from torch.nn.modules import conv as layers\nx: layers._ConvNd",
        "from torch import fx\nfx.proxy._x",
        "def f():\n    from torch.fx import _symbolic_trace as s\n    s.x",
    ],
)
def test_a_private_name_is_found(source: str) -> None:
    assert list(private_names(source))


def test_each_name_of_ours_is_checked() -> None:
    checks = CHECKS.read_text(encoding="utf-8")
    assert [name for name in torch_private.__all__ if checks.count(name) == 0] == []


def test_private_attributes_are_ours_or_checked() -> None:
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in FILES if file != HOME]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    read = {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and is_private(node.attr)
    }
    ours = {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    ours |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    ours |= {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }
    assert read - ours - OF_PYTHONS <= OF_MODULES.keys() | OTHERS_OF_TORCHS
