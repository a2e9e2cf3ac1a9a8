"""torch.compile takes every mechanism whole, at a fixed resolution, and changes no output and no gradient."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import pytest
import torch

import attnbench
from attnbench.architecture import uniform
from attnbench.backbone import Backbone, Block, assemble
from attnbench.layers import LayerScale
from attnbench.norms import LayerNorm
from attnbench.sizes import SIZES

NAMES = sorted(attnbench.MECHANISMS)


def shallow(name: str) -> Backbone:
    torch.manual_seed(0)
    architecture = replace(uniform(SIZES["nano"]), depths=(2, 1, 1, 1))  # the second block is a shifted one
    return assemble(architecture, name, (70, 94), 3, 0.0, None, {})


@pytest.fixture(autouse=True)
def _forget() -> None:
    torch.compiler.reset()


@pytest.mark.parametrize("name", NAMES)
def test_one_graph_with_the_outputs_and_gradients_of_eager(name: str) -> None:
    # aot_eager: graphs, constants and the backward pass are those of the compiler, but no C++ is compiled.
    model = shallow(name).train()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    images, weight = torch.randn(2, 3, 70, 94), torch.randn(2, 3)
    outputs, gradients = [], []
    for call in (model, compiled):
        out = call(images)
        outputs.append(out)
        gradients.append(torch.autograd.grad((out * weight).sum(), list(model.parameters())))
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-5, atol=1e-5)
    for actual, expected in zip(*reversed(gradients), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    model.eval()
    with torch.inference_mode():
        torch.testing.assert_close(compiled(images), model(images), rtol=1e-5, atol=1e-5)


class Doubled(torch.nn.Linear):
    """A layer that somebody exchanged."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


@pytest.mark.parametrize("changed", ["layer", "autocast", "layer scale", "stochastic depth"])
def test_what_our_operators_do_not_compute_is_traced(changed: str) -> None:
    model = shallow("swin").eval()
    for block in cast(list[Block], model.blocks[0]):
        if changed == "layer":
            block.mlp.fc2 = Doubled(block.mlp.fc2.in_features, block.mlp.fc2.out_features)
        if changed == "layer scale":
            block.scale2 = LayerScale(block.mlp.fc2.out_features, 0.3)
        if changed == "stochastic depth":
            block.drop_path = torch.nn.Dropout(0.5).eval()  # another kind, and inactive
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    images = torch.randn(2, 3, 70, 94)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=changed == "autocast"):
        actual, expected = compiled(images), model(images)
    assert actual.dtype == expected.dtype
    tolerance = 3e-2 if changed == "autocast" else 1e-5  # eight bits
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def test_a_compiled_model_follows_tables_that_change() -> None:
    model = shallow("focal").eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    images = torch.randn(2, 3, 70, 94)
    tables = [table for name, table in model.blocks[0].named_parameters() if "relative_position_bias" in name]
    assert len(tables) == 6  # own window, ring and a pooled level, in two blocks
    with torch.inference_mode():
        for table in [*tables, tables[0]]:
            before = compiled(images)
            torch.testing.assert_close(compiled(images), before, rtol=0, atol=0)
            table.data += torch.randn_like(table)
            after = compiled(images)
            assert not torch.allclose(after, before, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(after, model(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 6, 5, 4), (1, 3, 2, 2), (1, 8, 1, 1), (0, 4, 3, 3)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("affine", [True, False])
def test_norms_in_a_graph_are_what_the_compiler_takes_them_for(
    shape: tuple[int, ...], layout: torch.memory_format, affine: bool
) -> None:
    """Numbers, sizes and strides."""
    x = torch.randn(shape).to(memory_format=layout)
    given = *(torch.randn(2, shape[1]) if affine else (None, None)), 1e-5
    for operator, inputs in (
        (torch.ops.attnbench.group_norm.default, (x, 1, *given)),
        (torch.ops.attnbench.layer_norm.default, (x.permute(0, 2, 3, 1), shape[1:2], *given)),
    ):
        assert set(torch.library.opcheck(operator, inputs).values()) == {"SUCCESS"}


@pytest.mark.parametrize("make", [lambda: LayerNorm(6), lambda: LayerNorm(6, elementwise_affine=False)])
def test_a_norm_is_one_operator_in_inference_alone_and_changes_no_number(make: Callable[[], LayerNorm]) -> None:
    norm, x, called = make(), torch.randn(2, 5, 6), []

    def record(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        called.append(any("attnbench" in str(node.target) for node in graph.graph.nodes))
        return graph

    compiled = torch.compile(norm, fullgraph=True, backend=record)
    for whole, mode in ((True, torch.inference_mode), (True, torch.no_grad), (False, torch.enable_grad)):
        with mode():
            assert torch.equal(compiled(x), torch.nn.functional.layer_norm(x, (6,), norm.weight, norm.bias))
        assert called[-1] is whole


def test_code_that_is_compiled_for_two_sizes_keeps_their_constants_apart() -> None:
    model = shallow("focal_fast").eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=False)
    with torch.inference_mode():
        for sides in ((64, 64), (64, 96), (64, 64)):
            images = torch.randn(1, 3, *sides)
            torch.testing.assert_close(compiled(images), model(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_an_exported_graph_has_operators_of_torch_alone(name: str) -> None:
    model = shallow(name).eval()
    images = torch.randn(1, 3, 70, 94)
    with torch.no_grad():
        exported = torch.export.export(model, (images,))
        torch.testing.assert_close(exported.module()(images), model(images), rtol=1e-5, atol=1e-5)
    called = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert all(target.startswith(("aten.", "<built-in")) for target in called), called


def test_the_compiler_is_not_imported_before_it_is_used() -> None:
    # It takes seconds, and every worker process loads mechanisms.
    code = (
        "import sys, attnbench; [attnbench.MECHANISMS[name] for name in attnbench.MECHANISMS];"
        "print([name for name in sys.modules if name.startswith('torch._dynamo')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
