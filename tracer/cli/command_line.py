"""The command line: options, exit statuses, and what goes to standard output and standard error.

It knows nothing of the compiler: it loads what the strings name, calls `tracer`, and renders the answer.
Everything heavy is imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

import tracer
from passes.errors import ExportError, InputError, TracerError, TracerWarning, VerificationError
from passes.printable import printable_lines

if TYPE_CHECKING:
    from rich.console import RenderableType
    from torch import nn

    from tracer.cli.rendering import ProgressLine

FAILED, WRONG_USAGE, DISAGREES, INTERRUPTED = 1, 2, 3, 130
Command = TypeVar("Command", bound=Callable[..., Any])


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status: 0 done, 1 the model cannot be converted, 2 wrong usage,
    3 the exported file disagrees with the module."""
    try:
        return cli.main(arguments, standalone_mode=False) or 0
    except click.Abort:
        _say("error", "interrupted")
        return INTERRUPTED
    except click.ClickException as error:
        _say("error", error.format_message())
        if isinstance(error, click.UsageError) and error.ctx is not None:
            click.echo(f"  remedy: see {error.ctx.command_path} --help", err=True)
        return WRONG_USAGE


@dataclass(slots=True)
class Outcome:
    """What a command found: plain data for `--json`, and what to print."""

    facts: dict[str, Any]
    summary: RenderableType


@dataclass(slots=True)
class Invocation:
    """How a command talks: how much, and where its JSON goes."""

    json_target: str | None
    quiet: bool
    verbose: bool
    progress: ProgressLine = field(init=False)
    warnings: list[str] = field(default_factory=list)
    known: RenderableType | None = None  # what to print of a model that fails
    output: Path | None = None

    def carry_out(self, command: Callable[[Invocation], Outcome], files_read: Sequence[Path]) -> int:
        """Runs the command, which reads these files, and tells how it ended; returns the exit status."""
        try:
            from tracer.cli import rendering

            self.check_outputs(files_read)
            # What the caller's model prints is no part of our answer.
            with (
                rendering.progress(not self.quiet) as self.progress,
                redirect_stdout(sys.stderr),
                self._warnings_shown(),
            ):
                self.progress.says("importing torch")
                outcome = command(self)
            if not self.quiet and self.json_target != "-":
                rendering.show(outcome.summary)
            self._write_json({**outcome.facts, "warnings": self.warnings})
            return 0
        except BrokenPipeError:  # whoever reads our output has read enough, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except TracerError as error:
            return self._fail(error, error.to_dict(), _status(error))
        except (Exception, SystemExit) as error:
            bug = _as_bug(error)
            return self._fail(bug, {**bug.to_dict(), "kind": type(error).__name__}, FAILED)

    def _fail(self, error: TracerError, facts: dict[str, Any], status: int) -> int:
        if self.verbose:
            click.echo(printable_lines(traceback.format_exc()), err=True)
        if self.known is not None and not self.quiet and self.json_target != "-":
            from tracer.cli import rendering

            rendering.show(self.known)
        _say("error", str(error))
        if error.report is not None:
            facts = {**facts, "report": error.report.to_dict()}
        try:
            self._write_json({"error": facts, "warnings": self.warnings})
        except ExportError as unwritable:
            _say("error", str(unwritable))
        return status

    def check_outputs(self, inputs: Sequence[Path]) -> None:
        """Raises ExportError or InputError unless what is to be written can be, beside the files that are read."""
        from passes.files.output_file import check_target

        if self.output is not None:
            check_target(self.output, inputs)
        self.check_json(inputs)

    def check_json(self, inputs: Sequence[Path]) -> None:
        """Raises InputError unless the JSON can be written beside the files that are read."""
        from passes.files.output_file import check_target

        if self.json_target not in (None, "-"):
            target, self.json_target = self.json_target, None  # where it cannot be written, the error is not either
            path = Path(str(target))
            try:
                place = check_target(path, inputs)
            except ExportError as error:
                fault = error.message if path.parent.is_dir() else f"there is no folder {path.parent}"
                raise InputError(
                    f"--json {path} cannot be written: {fault}",
                    remedy="name a file in a folder that exists, or - for standard output",
                ) from error
            if self.output is not None and os.path.realpath(place) == os.path.realpath(check_target(self.output)):
                raise InputError(f"--json {path} is the output too", remedy="name two files")
            self.json_target = target

    def _write_json(self, facts: dict[str, Any]) -> None:
        if self.json_target is None:
            return
        text = json.dumps(facts, indent=2) + "\n"
        if self.json_target == "-":
            click.echo(text, nl=False)
            return
        from passes.files.output_file import staged

        with staged(Path(self.json_target)) as staging:
            staging.file.write(text.encode())

    @contextmanager
    def _warnings_shown(self) -> Iterator[None]:
        """TracerWarnings as lines on standard error; all others as ever."""
        with warnings.catch_warnings():
            warnings.simplefilter("always", TracerWarning)
            as_ever = warnings.showwarning

            def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
                if not issubclass(category, TracerWarning):
                    as_ever(message, category, *place, **more)
                    return
                if str(message) not in self.warnings:
                    self.warnings.append(str(message))
                    _say("warning", str(message))

            warnings.showwarning = show
            yield


def _status(error: TracerError) -> int:
    if isinstance(error, InputError):
        return WRONG_USAGE
    return DISAGREES if isinstance(error, VerificationError) else FAILED


def _as_bug(error: BaseException) -> TracerError:
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return TracerError(
        f"this is a bug in lazytracer: {type(error).__name__}: {error}{place}",
        remedy="run again with -v for the traceback, and report it together with the model",
    )


def _say(kind: str, text: str) -> None:
    heading = click.style(f"{kind}:", fg="red" if kind == "error" else "yellow", bold=True)
    click.echo(f"{heading} {printable_lines(text)}", err=True)


# Options ----------------------------------------------------------------------------------------


def _stacked(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several decorators as one, the first outermost."""

    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


def _talking(command: Callable[..., Outcome]) -> Callable[..., int]:
    """A command gets an Invocation, made from the options for JSON, quiet and verbose."""

    @click.option("--json", "json_target", metavar="FILE|-", help="Write everything as JSON; - is standard output.")
    @click.option("-q", "--quiet", is_flag=True, help="Print nothing when all is well.")
    @click.option("-v", "--verbose", is_flag=True, help="Print more: the time of each step, tracebacks.")
    @functools.wraps(command)
    def talking(json_target: str | None, quiet: bool, verbose: bool, **options: Any) -> int:
        return Invocation(json_target, quiet, verbose, output=options.get("output")).carry_out(
            lambda invocation: command(invocation=invocation, **options), _files_read(**options)
        )

    return talking


def _files_read(
    model_name: str = "", weights: Path | None = None, inputs: Sequence[str] = (), **_: object
) -> list[Path]:
    """The files that a command's options name to be read. An exported file may be written again in its place."""
    data = [text.rpartition("@")[2] for text in inputs if "@" in text]
    return [Path(name) for name in (model_name.rpartition(":")[0], weights, *data) if name]


_what_to_trace: Callable[[Any], Any] = _stacked(
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
        "--where",
        "constraints",
        metavar="CONSTRAINT",
        multiple=True,
        help="What named sizes keep to: 'H>=33, W%32==0'. The file is right wherever they do, or there is none.",
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
    click.option("--strict", is_flag=True, help="Fail where the sample never reaches a lazy layer."),
)

_weights: Callable[[Any], Any] = click.option(
    "--weights", metavar="FILE", type=click.Path(path_type=Path), help="Take weights from a .safetensors or .pt file."
)


@dataclass(slots=True)
class Subject:
    """A loaded model and its samples, as `tracer`'s functions take them; `args` and `kwargs` are those of the first."""

    model: nn.Module
    samples: list[tuple[tuple[Any, ...], dict[str, Any]]]
    dims: dict[str, int]
    strict: bool

    @property
    def args(self) -> tuple[Any, ...]:
        return self.samples[0][0]

    @property
    def kwargs(self) -> dict[str, Any]:
        return self.samples[0][1]

    @property
    def options(self) -> dict[str, Any]:
        return {"kwargs": self.kwargs, "dims": self.dims, "strict": self.strict}


@contextmanager
def _loaded(
    invocation: Invocation,
    model_name: str,
    inputs: Sequence[str],
    constraints: Sequence[str],
    kwargs: Sequence[str],
    dims: Sequence[str],
    seed: int,
    strict: bool,
    compare: bool = False,
) -> Iterator[Subject]:
    """The model, built under the seed; inside the block torch's random state goes on from there, so that a
    model gets the weights that it has in a script which sets the seed, builds it and runs it once. To `compare`, the
    inputs are those of several samples."""
    import torch

    from tracer.cli import loading

    samples = loading.load_samples(inputs) if compare else [loading.load_inputs(inputs)]
    samples = loading.with_constraints(samples, constraints)
    known = [name for args, named in samples for name in loading.dimension_names(args, named)]
    sizes = loading.parse_sizes(dims, "--dim", list(dict.fromkeys(known)))
    factory_arguments = loading.parse_literals(kwargs, "--kwarg")
    if not -(2**63) <= seed < 2**64:
        raise InputError(f"--seed {seed} does not fit into 64 bits", remedy="choose a smaller one")
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        invocation.progress.says(f"loading {model_name}")
        model = loading.load_model(model_name, factory_arguments)
        invocation.check_outputs(loading.source_files(model_name))
        yield Subject(model, samples, sizes, strict)


# Commands ---------------------------------------------------------------------------------------


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=False)
@click.version_option(tracer.__version__, prog_name="lazytracer")
def cli() -> None:
    """Resolves PyTorch models with lazy layers by tracing, without running them, and exports them to ONNX.

    MODEL is path/to/file.py:name or package.module:name; the name is a torch.nn.Module, a Module class, or a
    function that returns a module.

    INPUT is [name=]DIMxDIMx...[:dtype]. A number is a fixed size and a word a dynamic dimension
    (Nx3x224x224, tokens=NxT:int64); scalar is a 0-d tensor; name=@file reads a .npy, .npz or .safetensors file.

    CONSTRAINT compares dynamic dimensions, each at least 1 unless said: H>=33, 29<=W<=512, W%32==0, N*T<=4096, P>=0.
    Several are set apart by commas, and may follow an INPUT too: NxPx8,P>=0.

    Exit status: 0 done; 1 the model cannot be converted; 2 wrong usage; 3 the exported file disagrees with
    the module.
    """


@cli.command(short_help="Export MODEL to ONNX.")
@_what_to_trace
@click.option("-o", "--output", metavar="FILE.onnx", required=True, type=click.Path(path_type=Path), help="The file.")
@_weights
@click.option("--opset", type=int, default=20, show_default=True, help="The version of ONNX's operator set.")
@click.option(
    "--route",
    type=click.Choice(["auto", "direct", "torch"]),
    default="auto",
    show_default=True,
    help="direct uses our own lowering, torch uses torch.onnx.export; auto takes direct where it can.",
)
@click.option("--no-fold-batchnorm", is_flag=True, help="Keep batch norms apart from the layers before them.")
@click.option("--no-verify", is_flag=True, help="Do not run the exported file beside the module.")
@click.option("--meta", "metadata", metavar="K=V", multiple=True, help="An entry of the file's metadata.")
@_talking
def convert(
    invocation: Invocation,
    output: Path,
    weights: Path | None,
    opset: int,
    route: str,
    no_fold_batchnorm: bool,
    no_verify: bool,
    metadata: Sequence[str],
    **subject: Any,
) -> Outcome:
    """Resolves MODEL, exports it to ONNX, and runs the file beside the module."""
    started = time.perf_counter()
    from tracer.cli import rendering
    from tracer.cli.loading import parse_assignments

    entries = parse_assignments(metadata, "--meta")
    with _loaded(invocation, **subject) as loaded:
        invocation.progress.says(f"converting {type(loaded.model).__name__}")
        conversion = tracer.convert(
            loaded.model,
            loaded.args,
            output,
            opset_version=opset,
            route=route,
            fold_batchnorm=not no_fold_batchnorm,
            verify=not no_verify,
            metadata=entries,
            weights=weights,
            **loaded.options,
        )
    seconds = time.perf_counter() - started
    facts = {
        **conversion.report.to_dict(),
        "file": str(output),
        "bytes": output.stat().st_size,
        "opset": opset,
        "output_names": conversion.lowered.output_names,
        "route": conversion.route,
        "route_reason": conversion.route_reason,
        "verification": conversion.verification.to_dict() if conversion.verification else None,
        "timings": conversion.timings,
        "seconds": seconds,
    }
    return Outcome(facts, rendering.conversion_summary(conversion, output, opset, seconds, invocation.verbose))


@cli.command(short_help="Show what is known of MODEL.")
@_what_to_trace
@click.option(
    "--compare",
    is_flag=True,
    help="Show what changes between samples. Each -i without a name is a sample; of a model with several inputs, name "
    "them: a name that comes again begins the next sample (-i x=1x8 -i y=1x4 -i x=2x8 -i y=2x4).",
)
@click.option("--program", is_flag=True, help="Print the program that MODEL is traced to, one line an operation.")
@_talking
def inspect(invocation: Invocation, compare: bool, program: bool, **subject: Any) -> Outcome:
    """Shows MODEL's layers with their shapes and what is inferred; allocates no weight and runs nothing."""
    from tracer.cli import rendering

    if compare and program:
        raise InputError("--program is of one sample, --compare of several", remedy="give one of the two")
    with _loaded(invocation, **subject, compare=compare) as loaded:
        invocation.progress.says(f"inspecting {type(loaded.model).__name__}")
        if compare:
            if len(loaded.samples) < 2:
                raise InputError(
                    f"--compare takes two samples or more, found {len(loaded.samples)}",
                    remedy="repeat -i, as in -i 1x28x28 -i 1x64x64",
                )
            args, kwargs = zip(*loaded.samples, strict=True)
            comparison = tracer.compare(loaded.model, args, kwargs, dims=loaded.dims, strict=loaded.strict)
            return Outcome(comparison.to_dict(), rendering.comparison_table(comparison))
        try:
            report = tracer.inspect(loaded.model, loaded.args, **loaded.options)
        except TracerError as error:
            if error.report is not None:
                known = error.report
                invocation.known = known.program_text() if program else rendering.known_part(known)
            raise
    if program:
        text = report.program_text()
        return Outcome({**report.to_dict(), "program": text}, text)
    return Outcome(report.to_dict(), rendering.inspection(report, invocation.verbose))


@cli.command(short_help="Show why a layer of MODEL has its sizes.")
@_what_to_trace
@click.argument("layer")
@_talking
def why(invocation: Invocation, layer: str, **subject: Any) -> Outcome:
    """Shows the chain of shapes that leads to LAYER, a module path such as features.3.conv, in formulas of the
    input's dimensions: sizes of the input of at least 2 are named N, C, H, W."""
    from tracer.cli import rendering

    with _loaded(invocation, **subject) as loaded:
        invocation.progress.says(f"following {type(loaded.model).__name__} to {layer}")
        explanation = tracer.why(loaded.model, loaded.args, layer, loaded.kwargs, dims=loaded.dims)
    return Outcome(explanation.to_dict(), rendering.explanation_table(explanation))


@cli.command(short_help="Write MODEL's resolved weights.")
@_what_to_trace
@click.option(
    "-o", "--output", metavar="FILE", required=True, type=click.Path(path_type=Path), help="A .safetensors or .pt file."
)
@_weights
@_talking
def resolve(invocation: Invocation, output: Path, weights: Path | None, **subject: Any) -> Outcome:
    """Gives MODEL's lazy layers their weights and writes the state_dict."""
    started = time.perf_counter()
    from tracer.cli import rendering
    from tracer.commands.saving import check_weights_target, save_weights

    check_weights_target(output)
    with _loaded(invocation, **subject) as loaded:
        invocation.progress.says(f"resolving {type(loaded.model).__name__}")
        report = tracer.inspect(loaded.model, loaded.args, **loaded.options)
        resolved = tracer.resolve(loaded.model, loaded.args, weights=weights, **loaded.options)
        save_weights(resolved, output)
    seconds = time.perf_counter() - started
    facts = {**report.to_dict(), "file": str(output), "bytes": output.stat().st_size, "seconds": seconds}
    return Outcome(facts, rendering.resolution_summary(report, output, seconds))


@cli.command(short_help="Draw MODEL's graph.")
@_what_to_trace
@click.option("-o", "--output", metavar="FILE", required=True, type=click.Path(path_type=Path), help="The file.")
@click.option(
    "--format",
    type=click.Choice(["html", "svg", "dot", "mermaid", "json"]),
    help="By default what the file's suffix says. html is one page that needs no network.",
)
@_talking
def report(invocation: Invocation, output: Path, format: str | None, **subject: Any) -> Outcome:
    """Draws MODEL's graph with the shapes on its edges, its modules, and what is inferred for each lazy layer."""
    started = time.perf_counter()
    from tracer.cli import rendering

    with _loaded(invocation, **subject) as loaded:
        invocation.progress.says(f"drawing {type(loaded.model).__name__}")
        drawing = tracer.draw(loaded.model, loaded.args, output, format=format, **loaded.options)
    seconds = time.perf_counter() - started
    facts = {
        **drawing.report.to_dict(),
        "file": str(output),
        "bytes": output.stat().st_size,
        "format": drawing.format,
        "seconds": seconds,
    }
    return Outcome(facts, rendering.resolution_summary(drawing.report, output, seconds))


@cli.command(short_help="Put new weights into an exported file.")
@click.argument("model_file", metavar="FILE.onnx", type=click.Path(path_type=Path))
@click.option(
    "--weights",
    metavar="FILE",
    required=True,
    type=click.Path(path_type=Path),
    help="The new weights: a .safetensors or .pt file.",
)
@click.option("-o", "--output", metavar="FILE.onnx", required=True, type=click.Path(path_type=Path), help="The file.")
@_talking
def refresh(invocation: Invocation, model_file: Path, weights: Path, output: Path) -> Outcome:
    """Writes an exported file again with new weights, without tracing the model again."""
    started = time.perf_counter()
    from tracer.cli import rendering

    invocation.check_json([model_file])
    invocation.progress.says(f"refreshing {model_file}")
    tracer.refresh(model_file, weights, output)
    seconds = time.perf_counter() - started
    facts = {"file": str(output), "bytes": output.stat().st_size, "seconds": seconds}
    return Outcome(facts, rendering.written_file(output, seconds))
