"""The options that several commands have, and what a command is given for them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from tracer.cli.invocation import Invocation, Outcome

Command = TypeVar("Command", bound=Callable[..., Any])


def _stacked(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several decorators as one, the first outermost."""

    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


def talking(command: Callable[..., Outcome]) -> Callable[..., int]:
    """A command gets an Invocation, made from the options for JSON, quiet and verbose."""

    @click.option("--json", "json_target", metavar="FILE|-", help="Write everything as JSON; - is standard output.")
    @click.option("-q", "--quiet", is_flag=True, help="Print nothing when all is well.")
    @click.option("-v", "--verbose", is_flag=True, help="Print more: the time of each step, tracebacks.")
    @functools.wraps(command)
    def invoked(json_target: str | None, quiet: bool, verbose: bool, **options: Any) -> int:
        return Invocation(json_target, quiet, verbose, output=options.get("output")).carry_out(
            lambda invocation: command(invocation=invocation, **options), _files_read(**options)
        )

    return invoked


def _files_read(
    model_name: str = "", weights: Path | None = None, inputs: Sequence[str] = (), **_: object
) -> list[Path]:
    """The files that a command's options name to be read. An exported file may be written again in its place."""
    data = [text.rpartition("@")[2] for text in inputs if "@" in text]
    return [Path(name) for name in (model_name.rpartition(":")[0], weights, *data) if name]


what_to_trace: Callable[[Any], Any] = _stacked(
    click.argument("model_name", metavar="MODEL"),
    click.option(
        "-i",
        "--input",
        "inputs",
        metavar="INPUT",
        multiple=True,
        help="A sample input: [name=]DIMxDIMx...[:dtype]. Repeat for more.",
    ),
    click.option(
        "--kwarg", "kwargs", metavar="K=V", multiple=True, help="An argument of the model's class or function."
    ),
    click.option(
        "--dim", "dims", metavar="N=4", multiple=True, help="The size at which a dynamic dimension is sampled."
    ),
    click.option(
        "--seed",
        type=int,
        default=0,
        show_default=True,
        help="Seed of the weights: building the model and resolving it draw from it in turn.",
    ),
    click.option(
        "--where",
        "constraints",
        metavar="CONSTRAINT",
        multiple=True,
        help="What named sizes keep to: 'H>=33, W%32==0'. The file is right wherever they do, or there is none.",
    ),
    click.option("--strict", is_flag=True, help="Fail where the sample never reaches a lazy layer."),
)

state_option: Callable[[Any], Any] = click.option(
    "--state",
    type=click.Choice(["explicit"]),
    help="explicit makes the buffers that the forward writes inputs and outputs of the file.",
)

weights_option: Callable[[Any], Any] = click.option(
    "--weights", metavar="FILE", type=click.Path(path_type=Path), help="Take weights from a .safetensors or .pt file."
)
