"""What must hold between passes, and that it is looked at."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import fx, nn

import tracer
from passes.modules.lazy import LazyLayer
from passes.ops.op import Inference
from passes.program.pipeline import ContractError, Pipeline, Stage, check_stage
from passes.program.program import SPEC, Program
from passes.sizes.guards import GuardLog
from passes.stages.eager_rewrite import EagerRewrite
from passes.stages.shape_propagation import ShapePropagation
from passes.stages.simplification import Simplification
from tracer.capture.tracing import capture
from tracer.inputs.sample import bind_sample


def program(model: nn.Module | None = None) -> Program:
    model = model or nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(2))
    log = GuardLog()
    captured = capture(model, bind_sample(model, tracer.spec("N", 3), None, None, None, log), log)
    Pipeline([ShapePropagation()]).run(captured)
    return captured


def test_passes_that_do_not_fit_each_other() -> None:
    with pytest.raises(ContractError, match="simplification needs a program that is eager, not shaped"):
        Pipeline([ShapePropagation(), Simplification()])


def test_a_graph_out_of_order_is_not_captured() -> None:
    broken = program()
    first, second = [node for node in broken.graph.nodes if node.op == "call_module"][:2]
    second.append(first)
    with pytest.raises(ContractError, match=f"{second.name} uses {first.name} before it is computed"):
        check_stage(broken, Stage.CAPTURED, "a test")


def test_a_node_without_a_spec_is_not_shaped() -> None:
    broken = program()
    node = next(node for node in broken.graph.nodes if node.op == "call_module")
    del node.meta[SPEC]
    with pytest.raises(ContractError, match=f"after a test, the program is not shaped: {node.name} has no spec"):
        check_stage(broken, Stage.SHAPED, "a test")


def test_a_lazy_module_is_not_eager() -> None:
    with pytest.raises(ContractError, match="0 is uninitialised"):
        check_stage(program(), Stage.EAGER, "a test")


def test_an_attribute_that_contradicts_the_weights_is_not_eager() -> None:
    for model, attribute, message in (
        (nn.Linear(3, 4), "in_features", "in_features is 7, but weight has 3"),
        (nn.Sequential(nn.Unflatten(1, (3, 1)), nn.Conv1d(3, 4, 1)), "in_channels", "in_channels is 7"),
        (nn.BatchNorm1d(3), "num_features", "num_features is 7, but weight has 3"),
    ):
        broken = program(nn.Sequential(model))
        path, owner = next((path, m) for path, m in broken.root.named_modules() if hasattr(m, attribute))
        setattr(owner, attribute, 7)
        check_stage(broken, Stage.EAGER, "a test")  # the caller may have replaced the weights
        broken.lazies[path] = LazyLayer(path, "", (), {}, Inference({}, {}))
        with pytest.raises(ContractError, match=message):
            check_stage(broken, Stage.EAGER, "a test")


def test_the_check_looks_at_the_result() -> None:
    shaped = program()
    with pytest.raises(ContractError, match="after eager rewrite, the program is not eager"):
        Pipeline([EagerRewrite(shaped.root)], Stage.SHAPED).run(shaped)


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
    with pytest.raises(tracer.InternalError, match="after break_the_order, the program is not captured"):
        tracer.convert(model, tracer.spec("N", 3), passes=[breaking])


def test_the_graph_module_is_torch_fx() -> None:
    conversion = tracer.convert(nn.Sequential(nn.LazyLinear(4), nn.ReLU()), tracer.spec("N", 3))
    assert isinstance(conversion.graph_module, fx.GraphModule)
    for batch in (1, 5):
        x = torch.randn(batch, 3)
        torch.testing.assert_close(conversion.graph_module(x), conversion.module(x))
