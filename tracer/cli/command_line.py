"""The command line: the commands, each of which loads what the strings name, calls `tracer`, and renders the answer.

It knows nothing of the compiler. Everything heavy is imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

import tracer
from passes.errors import InputError, TracerError
from tracer.cli.invocation import INTERRUPTED, WRONG_USAGE, Invocation, Outcome, say
from tracer.cli.options import state_option, talking, weights_option, what_to_trace
from tracer.cli.subject import loaded_subject


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status: 0 done, 1 the model cannot be converted, 2 wrong usage,
    3 the exported file disagrees with the module."""
    try:
        return cli.main(arguments, standalone_mode=False) or 0
    except click.Abort:
        say("error", "interrupted")
        return INTERRUPTED
    except click.ClickException as error:
        say("error", error.format_message())
        if isinstance(error, click.UsageError) and error.ctx is not None:
            click.echo(f"  remedy: see {error.ctx.command_path} --help", err=True)
        return WRONG_USAGE


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
@what_to_trace
@click.option("-o", "--output", metavar="FILE.onnx", required=True, type=click.Path(path_type=Path), help="The file.")
@weights_option
@click.option("--opset", type=int, default=20, show_default=True, help="The version of ONNX's operator set.")
@click.option(
    "--route",
    type=click.Choice(["auto", "direct", "torch"]),
    default="auto",
    show_default=True,
    help="direct uses our own lowering, torch uses torch.onnx.export; auto takes direct where it can.",
)
@state_option
@click.option("--check-guards", is_flag=True, help="Let the file itself refuse sizes for which it does not hold.")
@click.option("--no-fold-batchnorm", is_flag=True, help="Keep batch norms apart from the layers before them.")
@click.option("--no-verify", is_flag=True, help="Do not run the exported file beside the module.")
@click.option("--meta", "metadata", metavar="K=V", multiple=True, help="An entry of the file's metadata.")
@talking
def convert(
    invocation: Invocation,
    output: Path,
    weights: Path | None,
    opset: int,
    route: str,
    state: str | None,
    check_guards: bool,
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
    with loaded_subject(invocation, **subject) as loaded:
        invocation.progress.says(f"converting {type(loaded.model).__name__}")
        conversion = tracer.convert(
            loaded.model,
            loaded.args,
            output,
            opset_version=opset,
            route=route,
            fold_batchnorm=not no_fold_batchnorm,
            guards="checked" if check_guards else "metadata",
            state=state,
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
@what_to_trace
@click.option(
    "--compare",
    is_flag=True,
    help="Show what changes between samples. Each -i without a name is a sample; of a model with several inputs, name "
    "them: a name that comes again begins the next sample (-i x=1x8 -i y=1x4 -i x=2x8 -i y=2x4).",
)
@click.option("--program", is_flag=True, help="Print the program that MODEL is traced to, one line an operation.")
@click.option("--sizes", "with_sizes", is_flag=True, help="Show which sizes MODEL takes, too.")
@state_option
@talking
def inspect(
    invocation: Invocation, compare: bool, program: bool, with_sizes: bool, state: str | None, **subject: Any
) -> Outcome:
    """Shows MODEL's layers with their shapes and what is inferred; allocates no weight and runs nothing."""
    from tracer.cli import rendering

    for option, given in (("--program", program), ("--sizes", with_sizes), ("--state", state is not None)):
        if compare and given:
            raise InputError(f"{option} is of one sample, --compare of several", remedy="give one of the two")
    with loaded_subject(invocation, **subject, compare=compare) as loaded:
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
            report = tracer.inspect(loaded.model, loaded.args, state=state, **loaded.options)
        except TracerError as error:
            if error.report is not None:
                known = error.report
                invocation.known = known.program_text() if program else rendering.known_part(known)
            raise
        found = tracer.sizes(loaded.model, loaded.args, loaded.kwargs, dims=loaded.dims) if with_sizes else None
    facts = report.to_dict()
    summary = report.program_text() if program else rendering.inspection(report, invocation.verbose)
    if program:
        facts["program"] = summary
    if found is not None:
        facts |= found.to_dict()
        summary = rendering.followed_by(summary, str(found))
    return Outcome(facts, summary)


@cli.command(short_help="Show which sizes MODEL takes.")
@what_to_trace
@talking
def sizes(invocation: Invocation, **subject: Any) -> Outcome:
    """Shows which sizes of its inputs MODEL takes, and the layer that ends them; allocates no weight, runs nothing."""
    with loaded_subject(invocation, **subject) as loaded:
        invocation.progress.says(f"looking at the sizes of {type(loaded.model).__name__}")
        found = tracer.sizes(loaded.model, loaded.args, loaded.kwargs, dims=loaded.dims)
    return Outcome(found.to_dict(), f"{found}\n")


@cli.command(short_help="Show why a layer of MODEL has its sizes.")
@what_to_trace
@click.argument("layer")
@talking
def why(invocation: Invocation, layer: str, **subject: Any) -> Outcome:
    """Shows the chain of shapes that leads to LAYER, a module path such as features.3.conv, in formulas of the
    input's dimensions: sizes of the input of at least 2 are named N, C, H, W."""
    from tracer.cli import rendering

    with loaded_subject(invocation, **subject) as loaded:
        invocation.progress.says(f"following {type(loaded.model).__name__} to {layer}")
        explanation = tracer.why(loaded.model, loaded.args, layer, loaded.kwargs, dims=loaded.dims)
    return Outcome(explanation.to_dict(), rendering.explanation_table(explanation))


@cli.command(short_help="Write MODEL's resolved weights.")
@what_to_trace
@click.option(
    "-o", "--output", metavar="FILE", required=True, type=click.Path(path_type=Path), help="A .safetensors or .pt file."
)
@weights_option
@talking
def resolve(invocation: Invocation, output: Path, weights: Path | None, **subject: Any) -> Outcome:
    """Gives MODEL's lazy layers their weights and writes the state_dict."""
    started = time.perf_counter()
    from tracer.cli import rendering
    from tracer.commands.saving import check_weights_target, save_weights

    check_weights_target(output)
    with loaded_subject(invocation, **subject) as loaded:
        invocation.progress.says(f"resolving {type(loaded.model).__name__}")
        report = tracer.inspect(loaded.model, loaded.args, **loaded.options)
        resolved = tracer.resolve(loaded.model, loaded.args, weights=weights, **loaded.options)
        save_weights(resolved, output)
    seconds = time.perf_counter() - started
    facts = {**report.to_dict(), "file": str(output), "bytes": output.stat().st_size, "seconds": seconds}
    return Outcome(facts, rendering.resolution_summary(report, output, seconds))


@cli.command(short_help="Draw MODEL's graph.")
@what_to_trace
@click.option("-o", "--output", metavar="FILE", required=True, type=click.Path(path_type=Path), help="The file.")
@click.option(
    "--format",
    type=click.Choice(["html", "svg", "dot", "mermaid", "json"]),
    help="By default what the file's suffix says. html is one page that needs no network.",
)
@talking
def report(invocation: Invocation, output: Path, format: str | None, **subject: Any) -> Outcome:
    """Draws MODEL's graph with the shapes on its edges, its modules, and what is inferred for each lazy layer."""
    started = time.perf_counter()
    from tracer.cli import rendering

    with loaded_subject(invocation, **subject) as loaded:
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
@talking
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
