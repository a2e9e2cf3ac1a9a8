"""Selected tokens: those of their numbers, and gradients added up where a token was selected again."""

from importlib import import_module

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

selecting = import_module("attnbench.mechanisms._selecting")  # by name: a type checker does not see plug-ins


def one_by_one(x: Tensor, chosen: list[int], grad: Tensor) -> tuple[Tensor, Tensor]:
    """Return what is selected, and the gradient of ``x`` for that of the selected, token by token."""
    to_x = torch.zeros_like(x)
    for place, number in enumerate(chosen):
        to_x[:, number] += grad[:, place]
    return torch.stack([x[:, number] for number in chosen], 1), to_x


@pytest.mark.parametrize("chosen", [[0, 2, 2, 1, 4, 2], [3], [4, 3, 2, 1, 0]], ids=str)
@pytest.mark.parametrize("compiled", [False, True])
def test_tokens_and_gradients_are_those_taken_one_by_one(chosen: list[int], compiled: bool) -> None:
    torch.compiler.reset()
    torch.manual_seed(0)
    x, grad = torch.randn(3, 5, 2, dtype=torch.float64), torch.randn(3, len(chosen), 2, dtype=torch.float64)
    call = torch.compile(selecting.select, backend="aot_eager", fullgraph=True) if compiled else selecting.select
    source = x.clone().requires_grad_()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        out = call(source, torch.tensor(chosen))
        (to_x,) = torch.autograd.grad(out, source, grad)
    expected, expected_to_x = one_by_one(x, chosen, grad)
    assert torch.equal(out, expected)
    torch.testing.assert_close(to_x, expected_to_x, rtol=1e-12, atol=1e-12)
    assert ("attnbench::select_backward" in {event.key for event in seen.key_averages()}) == compiled


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch reads it, not we
def test_its_operators_are_what_the_compiler_takes_them_for() -> None:
    x, chosen = torch.randn(3, 5, 2), torch.tensor([0, 2, 2, 4])
    for source in (x, x.clone().requires_grad_()):
        assert set(torch.library.opcheck(selecting._compiled, (source, chosen)).values()) == {"SUCCESS"}
    given = torch.randn(3, 4, 2), chosen, 5
    assert set(torch.library.opcheck(selecting._compiled_backward, given).values()) == {"SUCCESS"}
