"""The MLP with a convolution in training: its gradients are autograd's and those of differences, however it is cut."""

from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from attnbench import training_conv_mlp, training_mlp
from attnbench.layers import ConvMlp, RectifiedConvMlp
from attnbench.measure.memory import TensorLedger

DIM, INSIDE = 3, 7
same = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)  # in float64


@pytest.fixture(params=[ConvMlp, RectifiedConvMlp])
def mlp(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ConvMlp:
    """An MLP in float64 that takes few images, and three channels at most, at once."""
    for name, value in {"TOKENS": 24, "INSIDE": 60, "GROUP": 3}.items():
        monkeypatch.setattr(training_conv_mlp, name, value)
    torch.manual_seed(0)
    made: ConvMlp = request.param(DIM, INSIDE / DIM).double()
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    return made


def sources(mlp: ConvMlp) -> list[Tensor]:
    """Return the parameters, layer by layer as a map passes them."""
    return [
        tensor
        for layer in (mlp.fc1, mlp.dwconv, mlp.fc2)
        for tensor in (layer.weight, layer.bias)
        if tensor is not None
    ]


def plain(mlp: ConvMlp, x: Tensor, *parameters: Tensor) -> Tensor:
    """Return what the layers put out one by one, by matrix products and shifted copies."""
    w1, b1, mixing, shift, w2, b2 = parameters or sources(mlp)
    inside = x @ w1.T + b1
    padded = F.pad(inside.relu() if type(mlp) is RectifiedConvMlp else inside, (0, 0, 1, 1, 1, 1))
    height, width = x.shape[1:3]
    mixed = sum(
        padded[:, row : row + height, column : column + width] * mixing[:, 0, row, column]
        for row, column in product(range(3), repeat=2)
    )
    return F.gelu(mixed + shift) @ w2.T + b2


def maps(*shape: int) -> Tensor:
    return torch.randn(*shape, DIM, dtype=torch.float64, requires_grad=True)


def is_ours(out: Tensor) -> bool:
    """Tell whether the output has our own backward formula."""
    assert out.grad_fn is not None
    return "_Transform" in type(out.grad_fn).__name__


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 4), (5, 3, 4), (1, 5, 7), (3, 1, 6)], ids=str)
def test_outputs_and_gradients_are_those_of_the_layers(mlp: ConvMlp, shape: tuple[int, ...]) -> None:
    x = maps(*shape)
    out, expected = mlp(x), plain(mlp, x)
    assert is_ours(out)
    same(out, expected)
    weight = torch.randn_like(expected)
    found, right = (torch.autograd.grad((y * weight).sum(), [x, *sources(mlp)]) for y in (out, expected))
    same(found, right)


def test_gradients_are_those_of_differences_and_have_gradients(mlp: ConvMlp) -> None:
    rectified = type(mlp) is RectifiedConvMlp

    def call(*given: Tensor) -> Tensor:
        out: Tensor = training_conv_mlp._Transform.apply(*given, rectified)
        return out

    given = maps(2, 2, 3), *sources(mlp)
    assert gradcheck(call, given)
    assert gradgradcheck(call, given)


def test_a_map_laid_out_in_another_way_and_a_gradient_that_is_expanded_are_taken(mlp: ConvMlp) -> None:
    x = torch.randn(2, DIM, 4, 5, dtype=torch.float64).permute(0, 2, 3, 1).requires_grad_()
    out = mlp(x)
    assert is_ours(out)
    found = torch.autograd.grad(out.sum(), [x, *sources(mlp)])
    same(found, torch.autograd.grad(plain(mlp, x).sum(), [x, *sources(mlp)]))


@pytest.mark.parametrize("learning", list(product([False, True], repeat=7)))
def test_what_does_not_learn_gets_no_gradient_and_changes_nobody_elses(
    mlp: ConvMlp, learning: tuple[bool, ...]
) -> None:
    given = [maps(2, 3, 3), *sources(mlp)]
    for source, learns in zip(given, learning, strict=True):
        source.requires_grad_(learns)
    out = mlp(given[0])
    assert out.requires_grad == any(learning)
    if not any(learning):
        return
    assert is_ours(out)
    out.square().sum().backward()
    learners = [source for source in given if source.requires_grad]
    expected = iter(torch.autograd.grad(plain(mlp, *given).square().sum(), learners))
    for source, learns in zip(given, learning, strict=True):
        assert (source.grad is not None) == learns
        if source.grad is not None:
            same(source.grad, next(expected))


def test_one_map_of_the_width_inside_is_kept() -> None:
    mlp, x = ConvMlp(8, 16.0), torch.randn(4, 64, 64, 8, requires_grad=True)
    outside = x.numel() * 4  # bytes
    inside = 16 * outside
    with TensorLedger() as ledger:
        out = mlp(x)
        assert is_ours(out)
        assert ledger.current == outside + inside
        at_once = 4 * training_conv_mlp.INSIDE  # bytes of a group of channels
        assert ledger.peak <= outside + inside + 3 * at_once
        out.backward(torch.ones_like(out))
        del out
    assert ledger.peak < 3 * outside + inside + 5 * at_once


def changed(mlp: ConvMlp, **settings: Any) -> ConvMlp:
    convolution = {"kernel_size": 3, "padding": 1, "groups": INSIDE} | settings
    mlp.dwconv = nn.Conv2d(INSIDE, INSIDE, **convolution).double()
    return mlp


@pytest.mark.parametrize(
    "settings",
    [
        {"groups": 1},
        {"kernel_size": 5, "padding": 2},
        {"dilation": 2, "padding": 2},
        {"padding_mode": "reflect"},
        {"bias": False},
    ],
    ids=str,
)
def test_another_convolution_is_autograds(mlp: ConvMlp, settings: dict[str, Any]) -> None:
    x = maps(2, 4, 4)
    out, inside = changed(mlp, **settings)(x), mlp.fc1(x)
    assert not is_ours(out)
    mixed = mlp.dwconv((inside.relu() if type(mlp) is RectifiedConvMlp else inside).permute(0, 3, 1, 2))
    same(out, mlp.fc2(F.gelu(mixed.permute(0, 2, 3, 1))))


def test_who_watches_the_convolution_sees_every_channel_at_once(mlp: ConvMlp) -> None:
    seen = []
    mlp.dwconv.register_forward_hook(lambda _layer, _given, out: seen.append(tuple(out.shape)))
    mlp(maps(2, 3, 4)).sum().backward()
    assert seen == [(2, INSIDE, 3, 4)]


def test_what_is_not_of_full_precision_is_autograds(mlp: ConvMlp) -> None:
    assert not is_ours(mlp.bfloat16()(maps(1, 3, 3).bfloat16()))


@pytest.mark.parametrize("learning", [(True,) * 7, (False, *(True,) * 6), (True, *(False,) * 6)])
def test_compiled_it_is_one_operator_with_the_same_gradients(mlp: ConvMlp, learning: tuple[bool, ...]) -> None:
    called: set[str] = set()

    def record(graph: Any, _: Any) -> Any:
        called.update(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph

    given = [maps(2, 3, 4), *sources(mlp)]
    for source, learns in zip(given, learning, strict=True):
        source.requires_grad_(learns)
    wanted = [source for source in given if source.requires_grad]
    weight = torch.randn(2, 3, 4, DIM, dtype=torch.float64)
    expected = torch.autograd.grad((plain(mlp, *given) * weight).sum(), wanted)
    torch.compiler.reset()
    for backend in (record, "aot_eager"):
        out = torch.compile(mlp, fullgraph=True, backend=backend)(given[0])
        same(out, plain(mlp, *given))
        same(torch.autograd.grad((out * weight).sum(), wanted), expected)
    assert "attnbench.transform_convolved.default" in called


def test_its_operators_are_what_the_compiler_takes_them_for(mlp: ConvMlp) -> None:
    given = [source.detach() for source in (maps(2, 3, 4), *sources(mlp))]
    rectified = type(mlp) is RectifiedConvMlp
    assert set(torch.library.opcheck(training_conv_mlp._compiled, (*given, rectified)).values()) == {"SUCCESS"}
    inside = training_conv_mlp._transform(*given, rectified)[1]
    inputs = torch.randn(2, 3, 4, DIM, dtype=torch.float64), *given, rectified, inside, [True] * 7
    assert set(torch.library.opcheck(training_conv_mlp._compiled_backward, inputs).values()) == {"SUCCESS"}


def test_a_small_map_is_taken_too_though_the_plain_mlp_leaves_one_to_autograd() -> None:
    mlp = ConvMlp(8, 2.0)
    x = torch.randn(1, 4, 4, 8, requires_grad=True)
    assert not training_mlp.fits(x, mlp.fc1, mlp.fc2)
    assert is_ours(mlp(x))
