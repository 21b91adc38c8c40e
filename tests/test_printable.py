"""Names from models, checkpoints and files reach no terminal and no picture with signs that are obeyed there."""

from __future__ import annotations

import sys
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tracer
from passes.printable import printable, printable_lines
from tracer import TracerError
from tracer.cli import main

SIGNS = [
    "\x1b[31m",
    "\x1b]0;title\x07",
    "\n",
    "\r",
    "\t",
    "\x00",
    "\x7f",
    "\x9b",
    "\u202e",
    "\u2028",
    "\ud800",
    "[red]",
]


@pytest.mark.parametrize("sign", SIGNS)
def test_printable(sign: str) -> None:
    text = printable(f"a{sign}b")
    assert text.isprintable()
    assert text.isascii()
    assert printable(text) == text
    assert printable_lines(f"a{sign}b\nc").count("\n") == 1 + (sign == "\n")
    assert printable("häßlich 名前") == "häßlich 名前"


class Named(nn.Module):
    def __init__(self, sign: str, lazy: bool = True):
        super().__init__()
        self.sign = sign
        self.add_module(f"a{sign}b", nn.Sequential())
        inner = getattr(self, f"a{sign}b")
        inner.add_module(f"c{sign}", nn.LazyLinear(3) if lazy else nn.Linear(4, 3))
        self.__class__ = type(f"Named{sign.replace(chr(0), '')}".encode(errors="ignore").decode(), (Named,), {})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.matmul(getattr(self, f"a{self.sign}b")(x), torch.ones(3, 2))


def shown(text: str) -> bool:
    """Whether the text has only lines of printable characters."""
    return all(line.isprintable() for line in text.split("\n"))


TEXTS: dict[str, Callable[[nn.Module], str]] = {
    "notebook": lambda model: tracer.inspect(model, tracer.spec("N", 4))._repr_html_(),
    **{
        form: lambda model, form=form: tracer.draw(model, tracer.spec("N", 4), format=form).text  # type: ignore[misc]
        for form in ("svg", "dot", "mermaid", "json")
    },
    "why": lambda model: "\n".join(
        map(printable, str(tracer.why(model, tracer.spec("N", 4), list(dict(model.named_modules()))[-1])).split("\n"))
    ),
}


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("form", TEXTS)
def test_texts_and_pictures(form: str, sign: str) -> None:
    text = TEXTS[form](Named(sign))
    assert shown(text)
    text.encode()
    if form == "svg":
        ElementTree.fromstring(text)


@pytest.mark.parametrize("sign", SIGNS)
def test_the_page(sign: str, tmp_path: Path) -> None:
    drawing = tracer.draw(Named(sign), tracer.spec("N", 4), tmp_path / "page.html")
    data = next(line for line in drawing.text.split("\n") if '"nodes"' in line)
    assert data.isprintable()


FAILURES: dict[str, Callable[[str], Any]] = {
    "shape": lambda sign: tracer.inspect(nn.Sequential(Named(sign, lazy=False)), tracer.spec("N", 5)),
    "missing key": lambda sign: tracer.resolve(Named(sign), weights={}),
    "unknown key": lambda sign: tracer.resolve(
        nn.Linear(2, 2), weights={**nn.Linear(2, 2).state_dict(), f"x{sign}y": torch.ones(1)}
    ),
    "wrong shape": lambda sign: tracer.resolve(
        Named(sign, lazy=False),
        weights={f"a{sign}b.c{sign}.weight": torch.ones(1), f"a{sign}b.c{sign}.bias": torch.ones(3)},
    ),
    "dimension": lambda sign: tracer.inspect(nn.Linear(2, 2), tracer.spec("N", 2), dims={f"M{sign}": 3}),
    "output name": lambda sign: tracer.convert(nn.Linear(2, 2), tracer.spec(1, 2), f"missing{sign}/f.onnx"),
    "file name": lambda sign: tracer.refresh(f"missing{sign}.onnx", {}),
    "weights name": lambda sign: tracer.resolve(nn.Linear(2, 2), weights=f"missing{sign}.pt"),
    "layer name": lambda sign: tracer.why(nn.Linear(2, 2), tracer.spec(1, 2), f"no{sign}"),
}


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("failure", FAILURES)
def test_errors(failure: str, sign: str) -> None:
    with pytest.raises(TracerError) as raised:
        FAILURES[failure](sign)
    assert shown(str(raised.value))
    str(raised.value).encode()


@pytest.mark.parametrize("sign", SIGNS)
def test_warnings(sign: str) -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module(f"idle{sign}", nn.LazyLinear(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tracer.inspect(Idle(), tracer.spec(2, 2))
    assert [shown(str(found.message)) for found in caught] == [True]


MODEL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.add_module({name!r}, nn.LazyLinear(3))
        self.add_module("idle" + {name!r}, nn.LazyLinear(3))

    def forward(self, x):
        return getattr(self, {name!r})(x)
"""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [f"a{sign}b" for sign in SIGNS])
@pytest.mark.parametrize(
    "command",
    [
        "inspect net.py:Net -i Nx4",
        "inspect net.py:Net -v -i Nx4",
        "inspect net.py:Net --compare -i Nx4 -i 2x5",
        "inspect net.py:Net -v --strict -i Nx4",
        "convert net.py:Net -i 2x4 -o f.onnx --no-verify",
        "resolve net.py:Net -i 2x4 -o f.pt",
        "report net.py:Net -i 2x4 -o f.svg",
        "why net.py:Net nothing -i 2x4",
    ],
)
def test_the_command_line(
    command: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(MODEL.format(name=name))
    main(command.split())
    out, err = capsys.readouterr()
    assert shown(out)
    assert shown(err)


LEAVERS: dict[str, str] = {
    "at the top": "import sys\nsys.exit(3)\n",
    "while it is built": (
        "import sys\nfrom torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n        sys.exit(3)\n"
    ),
    "in the forward": (
        "import sys\nfrom torch import nn\nclass Net(nn.Module):\n    def forward(self, x):\n        sys.exit(3)\n"
    ),
    "inside a module": (
        "import sys\nfrom torch import nn\nclass In(nn.Module):\n    def forward(self, x):\n        sys.exit(3)\n"
        "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.part = In()\n"
        "    def forward(self, x):\n        return self.part(x)\n"
    ),
    "in an initialiser": (
        "import sys\nfrom torch import nn\nclass Lazy(nn.LazyLinear):\n    def initialize_parameters(self, x):\n"
        "        sys.exit(3)\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.fc = Lazy(3)\n    def forward(self, x):\n        return self.fc(x)\n"
    ),
    "in a hook": (
        "import sys\nfrom torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.fc = nn.Linear(4, 2)\n        self.fc.register_forward_hook(lambda *_: sys.exit(3))\n"
        "    def forward(self, x):\n        return self.fc(x)\n"
    ),
    "after a value was asked for": (
        "import sys\nfrom torch import nn\nclass Net(nn.Module):\n    def forward(self, x):\n"
        "        if x.sum() > 1e9:\n            return x\n        sys.exit(3)\n"
    ),
    "in state_dict": (
        "import sys\nfrom torch import nn\nclass Net(nn.Module):\n    def forward(self, x):\n        return x + 1\n"
        "    def state_dict(self, *args, **kwargs):\n        sys.exit(3)\n"
    ),
}


@pytest.mark.parametrize("place", LEAVERS)
@pytest.mark.parametrize("command", ["inspect", "convert", "resolve", "report"])
def test_a_model_that_exits(
    place: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is an error with exit status 1, and not the status that the model asks for."""
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(LEAVERS[place])
    output = {"convert": ["-o", "f.onnx"], "resolve": ["-o", "f.pt"], "report": ["-o", "f.svg"]}.get(command, [])
    status = main([command, "net.py:Net", "-i", "2x4", *output])
    if place == "in state_dict" and command in ("inspect", "report"):
        return  # nothing asks for it
    assert status == 1
    err = capsys.readouterr().err
    assert "SystemExit" in err
    assert sys.exc_info() == (None, None, None)
    assert not [file.name for file in tmp_path.iterdir() if file.name.startswith("f.")]
