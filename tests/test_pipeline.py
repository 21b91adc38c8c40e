"""What must hold between passes, and that it is looked at."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import fx, nn

import tracer
from passes.errors import ExportError
from passes.lowering.interface_names import interface_names
from passes.lowering.onnx_lowering import OnnxLowering
from passes.modules.lazy import LazyLayer
from passes.ops.op import Inference
from passes.program.legality import LEGAL, ContractError, check
from passes.program.notes import FAULT, VALUE
from passes.program.pipeline import run_pass
from passes.program.program import Program
from passes.program.stages import Captured, Eager, Lowered, Shaped
from passes.sizes.guards import GuardLog
from passes.stages.eager_rewrite import EagerRewrite
from passes.stages.shape_propagation import ShapePropagation
from passes.stages.simplification import Simplification
from tracer.capture.tracing import capture
from tracer.inputs.sample import bind_sample


def captured(model: nn.Module | None = None) -> Captured:
    model = model or nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(2))
    log = GuardLog()
    return capture(model, bind_sample(model, tracer.spec("N", 3), None, None, None, log), log)


def shaped(model: nn.Module | None = None) -> Shaped:
    return run_pass(ShapePropagation(), captured(model))[0]


def eager(model: nn.Module) -> Eager:
    """The program of a model that has no lazy layers."""
    program = shaped(model)
    return run_pass(EagerRewrite(program.root), program)[0]


def first_call(program: Captured | Shaped | Eager) -> fx.Node:
    return next(node for node in program.graph.nodes if node.op == "call_module")


def test_a_pass_on_a_program_of_another_stage() -> None:
    with pytest.raises(ContractError, match="simplification needs a program that is eager, not shaped"):
        run_pass(Simplification(), shaped())  # type: ignore[arg-type]


def test_a_stage_has_what_those_before_it_have_promised() -> None:
    program = eager(nn.Linear(3, 4))
    lowered = run_pass(OnnxLowering(20, interface_names(program, None, None)), program)[0]
    assert issubclass(Lowered, Eager)
    check(lowered, "a test")
    assert {rule.stage.__name__ for rule in LEGAL} == {"Program", "Shaped", "Eager", "Lowered"}


def out_of_order(program: Shaped) -> str:
    first, second = [node for node in program.graph.nodes if node.op == "call_module"][:2]
    second.append(first)
    return f"{second.name} uses {first.name} before it is computed"


def without_module(program: Shaped) -> str:
    first_call(program).target = "nowhere"
    return f"{first_call(program).name} calls nowhere, which is no module"


def without_value(program: Shaped) -> str:
    VALUE.drop(first_call(program))
    return f"{first_call(program).name} has no value"


def with_fault(program: Shaped) -> str:
    FAULT.put(first_call(program), ExportError("a fault"))
    return f"{first_call(program).name} has a fault"


@pytest.mark.parametrize("breaks", [out_of_order, without_module, without_value, with_fault])
def test_what_is_not_legal_in_a_shaped_program(breaks: Callable[[Shaped], str]) -> None:
    program = shaped()
    check(program, "a test")
    message = breaks(program)
    with pytest.raises(ContractError, match=f"after a test, the program is not shaped: {message}"):
        check(program, "a test")


def test_an_attribute_that_contradicts_the_weights_is_not_eager() -> None:
    for model, attribute, message in (
        (nn.Linear(3, 4), "in_features", "in_features is 7, but weight has 3"),
        (nn.Sequential(nn.Unflatten(1, (3, 1)), nn.Conv1d(3, 4, 1)), "in_channels", "in_channels is 7"),
        (nn.BatchNorm1d(3), "num_features", "num_features is 7, but weight has 3"),
    ):
        broken = eager(nn.Sequential(model))
        path, owner = next((path, m) for path, m in broken.root.named_modules() if hasattr(m, attribute))
        setattr(owner, attribute, 7)
        check(broken, "a test")  # the caller may have replaced the weights
        broken.lazies[path] = LazyLayer(path, "", (), {}, Inference({}, {}))
        with pytest.raises(ContractError, match=message):
            check(broken, "a test")


def test_a_lazy_module_is_not_eager() -> None:
    program = shaped()
    with pytest.raises(ContractError, match="after eager rewrite, the program is not eager: 0 is uninitialised"):
        run_pass(EagerRewrite(program.root), program)


def test_an_onnx_graph_that_is_not_the_models_is_not_lowered() -> None:
    program = eager(nn.Linear(3, 4))
    lowered = run_pass(OnnxLowering(20, interface_names(program, None, None)), program)[0]
    lowered.model.proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 5
    with pytest.raises(ExportError, match="not valid ONNX"):
        check(lowered, "a test")


def double_the_relu(program: Program) -> int:
    for node in program.graph.nodes:
        if node.target == "1":
            with program.graph.inserting_after(node):
                doubled = program.graph.call_function(torch.add, (node, 1))
            node.replace_all_uses_with(doubled)
            doubled.args = (node, node)
            return 1
    return 0


def break_the_order(program: Program) -> None:
    nodes = [node for node in program.graph.nodes if node.op == "call_module"]
    nodes[1].append(nodes[0])


def test_a_callers_pass_runs_and_its_shapes_are_propagated() -> None:
    model = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(2))
    conversion = tracer.convert(model, tracer.spec("N", 3), passes=[double_the_relu], verify=False)
    assert [node.op_type for node in conversion.lowered.proto.graph.node] == ["Gemm", "Relu", "Add", "Gemm"]
    assert conversion.timings["double_the_relu"] > 0


def test_a_callers_pass_runs_in_every_verb() -> None:
    model = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(2))
    report = tracer.inspect(model, tracer.spec("N", 3), passes=[double_the_relu])
    assert [layer.path for layer in report.layers] == ["0", "1", "2"]

    def look(program: Program) -> None:
        seen.append(
            [type(program.module(str(node.target))) for node in program.graph.nodes if node.op == "call_module"]
        )

    def refuse(program: Program) -> None:
        raise tracer.ExportError("not in this build")

    seen: list[list[type]] = []
    tracer.inspect(model, tracer.spec("N", 3), passes=[look])
    tracer.resolve(model, tracer.spec("N", 3), passes=[look])
    assert seen == [[nn.LazyLinear, nn.ReLU, nn.LazyLinear], [nn.Linear, nn.ReLU, nn.Linear]]
    with pytest.raises(tracer.ExportError, match="not in this build"):
        tracer.resolve(model, tracer.spec("N", 3), passes=[refuse], inplace=True)
    assert isinstance(model[0], nn.LazyLinear)
    with pytest.raises(tracer.InputError, match="a sample is needed"):
        tracer.resolve(model, weights=tracer.resolve(model, tracer.spec("N", 3)).state_dict(), passes=[look])


def test_a_callers_pass_that_breaks_the_graph_is_named() -> None:
    model = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(2))
    breaking: Callable[[Program], object] = break_the_order
    with pytest.raises(tracer.InternalError, match="after break_the_order, the program is not eager"):
        tracer.convert(model, tracer.spec("N", 3), passes=[breaking])


def test_the_graph_module_is_torch_fx() -> None:
    conversion = tracer.convert(nn.Sequential(nn.LazyLinear(4), nn.ReLU()), tracer.spec("N", 3))
    assert isinstance(conversion.graph_module, fx.GraphModule)
    for batch in (1, 5):
        x = torch.randn(batch, 3)
        torch.testing.assert_close(conversion.graph_module(x), conversion.module(x))
