"""Products by oneDNN: those of float64, however the matrices are laid out, and PyTorch's own where it is not to be."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from attnbench import products

pytestmark = pytest.mark.usefixtures("onednn_everywhere")

# Of which PyTorch gives a convolution to oneDNN, some of them odd.
ROWS, WIDTHS = st.integers(690, 1_100), st.integers(30, 70)
FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.T.contiguous().T,
    "part of wider rows": lambda x: torch.cat([x, x, x], 1)[:, x.shape[1] : 2 * x.shape[1]],
    "every second row": lambda x: x.repeat_interleave(2, 0)[::2],
    "one row again and again": lambda x: x[:1].expand(len(x), -1),
}
forms = st.sampled_from(sorted(FORMS))


def operators(call: Callable[[], object]) -> set[str]:
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        call()
    return {event.key for event in seen.key_averages()}


def matrix(rows: int, columns: int, form: str) -> Tensor:
    made = FORMS[form](torch.randn(rows, columns))
    assert made.shape == (rows, columns)
    return made


def near(found: Tensor, expected: Tensor, summed: int) -> None:
    """Hold a matrix to one of float64, with the rounding of ``summed`` products summed up one after the other.

    Equal products make an error of that many roundings of their sum; normal ones sums of the root of the number, of
    which the roundings add up as the root of the number too.
    """
    assert found.dtype == torch.float32
    rounding = summed * torch.finfo(torch.float32).eps
    torch.testing.assert_close(found.double(), expected, rtol=rounding, atol=rounding)


@given(ROWS, WIDTHS, WIDTHS, forms, forms)
@settings(max_examples=40, deadline=None)
def test_outputs_are_those_of_float64(rows: int, inputs: int, outputs: int, form: str, weights: str) -> None:
    torch.manual_seed(0)
    x, weight, bias = matrix(rows, inputs, form), matrix(outputs, inputs, weights), torch.randn(outputs)
    out, total = torch.empty(rows, outputs), torch.randn(rows, outputs)
    expected = x.double() @ weight.double().T
    before = total.double()
    assert products.to_output(x, weight, bias, out) is out
    near(out, expected + bias, inputs)
    assert products.add_output(x, weight, total) is total
    near(total, before + expected, inputs)


@given(ROWS, WIDTHS, WIDTHS, forms, forms)
@settings(max_examples=40, deadline=None)
def test_gradients_of_inputs_are_those_of_float64(
    rows: int, inputs: int, outputs: int, form: str, weights: str
) -> None:
    torch.manual_seed(0)
    grad, weight = matrix(rows, outputs, form), matrix(outputs, inputs, weights)
    expected, out = grad.double() @ weight.double(), torch.empty(rows, inputs)
    fresh = products.to_input(grad, weight)
    assert fresh.is_contiguous()
    near(fresh, expected, outputs)
    assert products.to_input(grad, weight, out) is out
    near(out, expected, outputs)


@given(ROWS, WIDTHS, WIDTHS, forms, forms)
@settings(max_examples=40, deadline=None)
def test_gradients_of_weights_are_those_of_float64(rows: int, inputs: int, outputs: int, form: str, other: str) -> None:
    torch.manual_seed(0)
    grad, x = matrix(rows, outputs, form), matrix(rows, inputs, other)
    wider = torch.randn(outputs, 2 * inputs)
    total = wider[:, ::2]  # as a group of the second layer's channels is a part of all
    expected, before, untouched = grad.double().T @ x.double(), total.double(), wider[:, 1::2].clone()
    fresh = products.to_weight(grad, x)
    assert fresh.is_contiguous()
    near(fresh, expected, rows)
    products.to_weight(grad, x, total)
    near(wider[:, ::2], before + expected, rows)
    assert torch.equal(wider[:, 1::2], untouched)


ALL: dict[str, tuple[str, Callable[[Tensor, Tensor, Tensor], Tensor]]] = {
    "output": ("mkldnn::_linear_pointwise", lambda x, w, g: products.to_output(x, w, w[:, 0], torch.empty_like(g))),
    "sum": ("mkldnn::_linear_pointwise", lambda x, w, g: products.add_output(x, w, torch.zeros_like(g))),
    "input": ("aten::convolution_backward", lambda _, w, grad: products.to_input(grad, w)),
    "weight": ("aten::convolution_backward", lambda x, _, grad: products.to_weight(grad, x)),
}


@pytest.mark.parametrize("name", ALL)
def test_onednn_takes_them_and_pytorch_what_is_not_for_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    operator, call = ALL[name]
    x, weight, grad = torch.randn(700, 30), torch.randn(40, 30), torch.randn(700, 40)
    taken = operators(lambda: call(x, weight, grad))
    assert operator in taken
    assert "aten::_slow_conv2d_backward" not in taken
    assert operator not in operators(lambda: call(x.double(), weight.double(), grad.double()))
    monkeypatch.setattr(products, "LEAST", 700 * 30 * 40 + 1)
    assert operator not in operators(lambda: call(x, weight, grad))
    monkeypatch.setattr(products, "LEAST", 700 * 30 * 40)
    assert operator in operators(lambda: call(x, weight, grad))
    monkeypatch.setattr(products, "SERVES_BETTER", False)
    assert operator not in operators(lambda: call(x, weight, grad))


@pytest.mark.parametrize("rows", [682, 683])
def test_no_gradient_goes_by_a_convolution_that_is_not_onednns(rows: int) -> None:
    x, weight, grad = torch.randn(rows, 30), torch.randn(40, 30), torch.randn(rows, 40)
    seen = operators(lambda: (products.to_input(grad, weight), products.to_weight(grad, x)))
    assert "aten::_slow_conv2d_backward" not in seen
    assert ("aten::convolution_backward" in seen) == (rows * 30 > 20_480)
