"""The MLP in training: its gradients are autograd's and those of differences, however a map is cut; less is kept."""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.utils.hooks import RemovableHandle

from attnbench import training_mlp
from attnbench.backbone import Block, build_model
from attnbench.layers import Mlp
from attnbench.measure.memory import TensorLedger

DIM, INSIDE = 3, 7
same = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)  # in float64


@pytest.fixture
def mlp(monkeypatch: pytest.MonkeyPatch) -> Mlp:
    """An MLP in float64 that takes four tokens at once."""
    monkeypatch.setattr(training_mlp, "TOKENS", 4)
    torch.manual_seed(0)
    made = Mlp(DIM, INSIDE / DIM).double()
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    return made


def plain(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    return F.linear(F.gelu(F.linear(x, w1, b1)), w2, b2)


def maps(*shape: int) -> Tensor:
    return torch.randn(*shape, DIM, dtype=torch.float64, requires_grad=True)


def is_ours(out: Tensor) -> bool:
    """Tell whether the output has our own backward formula."""
    assert out.grad_fn is not None
    return "_Transform" in type(out.grad_fn).__name__


@pytest.mark.parametrize("shape", [(5,), (8,), (2, 3), (2, 3, 5), (31,)], ids=str)
def test_outputs_and_gradients_are_those_of_the_layers(mlp: Mlp, shape: tuple[int, ...]) -> None:
    x, sources = maps(*shape), list(mlp.parameters())
    out, expected = mlp(x), plain(x, *sources)
    assert is_ours(out)
    same(out, expected)
    weight = torch.randn_like(expected)
    pairs = [torch.autograd.grad((y * weight).sum(), [x, *sources]) for y in (out, expected)]
    same(*pairs)


def test_gradients_are_those_of_differences_and_have_gradients(mlp: Mlp) -> None:
    x, (first, second) = maps(3, 3), (mlp.fc1, mlp.fc2)

    def call(x: Tensor, *parameters: Tensor) -> Tensor:
        return training_mlp._Transform.apply(x, *parameters)

    given = x, first.weight, first.bias, second.weight, second.bias
    assert gradcheck(call, given)
    assert gradgradcheck(call, given)


def test_a_map_laid_out_in_another_way_and_a_gradient_that_is_expanded_are_taken(mlp: Mlp) -> None:
    x = torch.randn(DIM, 4, 5, dtype=torch.float64).permute(1, 2, 0).requires_grad_()
    out = mlp(x)
    assert is_ours(out)
    found = torch.autograd.grad(out.sum(), [x, *mlp.parameters()])
    expected = torch.autograd.grad(plain(x, *mlp.parameters()).sum(), [x, *mlp.parameters()])
    same(found, expected)


@pytest.mark.parametrize("learning", list(product([False, True], repeat=5)))
def test_what_does_not_learn_gets_no_gradient_and_changes_nobody_elses(mlp: Mlp, learning: tuple[bool, ...]) -> None:
    sources = [maps(3, 3), *mlp.parameters()]
    for source, learns in zip(sources, learning, strict=True):
        source.requires_grad_(learns)
    out = mlp(sources[0])
    assert out.requires_grad == any(learning)
    if not any(learning):
        return
    assert is_ours(out)
    out.square().sum().backward()
    found = [source.grad for source in sources]
    learners = [source for source in sources if source.requires_grad]
    expected = iter(torch.autograd.grad(plain(*sources).square().sum(), learners))
    for gradient, learns in zip(found, learning, strict=True):
        assert (gradient is not None) == learns
        if gradient is not None:
            same(gradient, next(expected))


def test_one_map_of_the_width_inside_is_kept_and_its_gradients_are_a_parts() -> None:
    tokens, dim = 8 * training_mlp.TOKENS, 8
    mlp, x = Mlp(dim, 4.0), torch.randn(tokens, dim, requires_grad=True)
    outside, inside, part = 4 * tokens * dim, 16 * tokens * dim, 16 * training_mlp.TOKENS * dim  # bytes
    with TensorLedger() as ledger:
        out = mlp(x)
        assert ledger.current == outside + inside
        assert ledger.peak <= outside + inside + part
        out.backward(torch.ones_like(out))
        del out
    assert ledger.peak < 3 * outside + inside + 2 * part  # output, its gradient and that of x besides


def watched(register: Callable[[Mlp, Callable[..., None]], RemovableHandle]) -> Callable[[Mlp, Tensor], None]:
    """Return a use of an MLP by one who has a hook, and wants to see every token at once."""

    def use(mlp: Mlp, x: Tensor) -> None:
        seen = []

        def hook(module: nn.Module, first: object, *_: object) -> None:
            tensor = first[0] if isinstance(first, tuple) else first
            if module is mlp.fc1 and isinstance(tensor, Tensor):
                seen.append(tensor.shape[:-1])

        handle = register(mlp, hook)
        try:
            mlp(x).sum().backward()
        finally:
            handle.remove()
        assert seen == [x.shape[:-1]]

    return use


@pytest.mark.parametrize(
    "use",
    [
        watched(lambda mlp, hook: mlp.fc1.register_forward_hook(hook)),
        watched(lambda mlp, hook: mlp.fc1.register_forward_pre_hook(hook)),
        watched(lambda mlp, hook: mlp.fc1.register_full_backward_hook(hook)),
        watched(lambda _, hook: nn.modules.module.register_module_forward_hook(hook)),
        watched(lambda _, hook: nn.modules.module.register_module_full_backward_hook(hook)),
    ],
)
def test_who_watches_a_layer_sees_every_token_at_once(mlp: Mlp, use: Callable[[Mlp, Tensor], None]) -> None:
    use(mlp, maps(3, 3))


@pytest.mark.filterwarnings("ignore:`torch.jit.script")  # which torch calls for forward mode
def test_other_ways_to_differentiate_still_work(mlp: Mlp) -> None:
    x, tangent = maps(3, 5), torch.randn(3, 5, DIM, dtype=torch.float64)
    expected = torch.autograd.functional.jvp(lambda x: plain(x, *mlp.parameters()), x, tangent)[1]
    same(torch.func.jvp(mlp, (x,), (tangent,))[1], expected)
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(mlp(forward_ad.make_dual(x, tangent)))
    same(dual.tangent, expected)
    batched = torch.func.vmap(torch.func.grad(lambda image: mlp(image).square().sum()))(x.detach())
    together = torch.autograd.grad(plain(x, *mlp.parameters()).square().sum(), x)[0]
    same(batched, together)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_where_sums_of_parts_would_be_rounded_autograd_takes_over(mlp: Mlp, dtype: torch.dtype) -> None:
    assert not is_ours(mlp.to(dtype)(maps(3, 3).to(dtype)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not is_ours(mlp.float()(maps(3, 3).float()))


@pytest.mark.parametrize("learning", [(True,) * 5, (False, True, True, True, True), (True, False, False, False, False)])
def test_compiled_it_is_one_operator_with_the_same_gradients(mlp: Mlp, learning: tuple[bool, ...]) -> None:
    called: set[str] = set()

    def record(graph: Any, _: Any) -> Any:
        called.update(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph

    x = maps(3, 5)
    sources = [x, *mlp.parameters()]
    for source, learns in zip(sources, learning, strict=True):
        source.requires_grad_(learns)
    wanted = [source for source in sources if source.requires_grad]
    weight = torch.randn(3, 5, DIM, dtype=torch.float64)
    expected = torch.autograd.grad((plain(x, *mlp.parameters()) * weight).sum(), wanted)
    torch.compiler.reset()
    for backend in (record, "aot_eager"):
        out = torch.compile(mlp, fullgraph=True, backend=backend)(x)
        same(out, plain(x, *mlp.parameters()))
        for actual, gradient in zip(torch.autograd.grad((out * weight).sum(), wanted), expected, strict=True):
            same(actual, gradient)
    assert "attnbench.transform.default" in called


@pytest.mark.parametrize("step", ["training", "inference"])
def test_who_watches_a_layer_of_a_compiled_block_sees_it_called(step: str) -> None:
    model = build_model("identity", "nano", resolution=(32, 32), num_classes=10)
    block = next(module for module in model.modules() if isinstance(module, Block)).train(step == "training")
    assert isinstance(block.mlp, Mlp)
    seen: list[tuple[int, ...]] = []

    def see(_layer: nn.Module, _given: Any, out: Tensor) -> None:
        seen.append(tuple(out.shape))

    block.mlp.fc1.register_forward_hook(see)
    x = torch.randn(2, 48, 48, block.mlp.fc1.in_features)
    torch.compiler.reset()
    with torch.set_grad_enabled(step == "training"):
        torch.compile(block, backend="aot_eager")(x)
    assert seen == [(*x.shape[:3], block.mlp.fc1.out_features)]


def test_its_operators_are_what_the_compiler_takes_them_for(mlp: Mlp) -> None:
    given = tuple(source.detach() for source in (maps(2, 5), *mlp.parameters()))
    assert set(torch.library.opcheck(training_mlp._compiled, given).values()) == {"SUCCESS"}
    inside = F.linear(given[0].flatten(0, 1), *given[1:3])
    inputs = torch.randn(2, 5, DIM, dtype=torch.float64), *given, inside, [True] * 5
    assert set(torch.library.opcheck(training_mlp._compiled_backward, inputs).values()) == {"SUCCESS"}
