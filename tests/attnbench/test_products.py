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
largest = st.sampled_from([(4_095, 3), (3, 4_095)])  # numbers of the one matrix and of the other


def operators(call: Callable[[], object]) -> set[str]:
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        call()
    return {event.key for event in seen.key_averages()}


def matrix(rows: int, columns: int, form: str, largest: int) -> Tensor:
    made = FORMS[form](torch.randint(-largest, largest + 1, (rows, columns)).float())
    assert made.shape == (rows, columns)
    return made


def equal(found: Tensor, expected: Tensor) -> None:
    """Hold a matrix to one of float64, to the last bit.

    The largest sum, of 1,100 products of 4,095 and 3, and 4,095, is below 2^24: float32 holds it and every part of it
    exactly, in whatever order they are added up. Of 4,095, of 12 bits, TF32 and bfloat16 would drop some.
    """
    assert found.dtype == torch.float32
    assert expected.abs().max() < 2**24
    assert torch.equal(found.double(), expected)


@given(ROWS, WIDTHS, WIDTHS, forms, forms, largest)
@settings(max_examples=40, deadline=None)
def test_outputs_are_those_of_float64(
    rows: int, inputs: int, outputs: int, form: str, weights: str, bounds: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    x, weight = matrix(rows, inputs, form, bounds[0]), matrix(outputs, inputs, weights, bounds[1])
    bias, total = matrix(1, outputs, "contiguous", 4_095)[0], matrix(rows, outputs, "contiguous", 4_095)
    expected, out = x.double() @ weight.double().T, torch.empty(rows, outputs)
    before = total.double()
    assert products.to_output(x, weight, bias, out) is out
    equal(out, expected + bias)
    assert products.add_output(x, weight, total) is total
    equal(total, before + expected)


@given(ROWS, WIDTHS, WIDTHS, forms, forms, largest)
@settings(max_examples=40, deadline=None)
def test_gradients_of_inputs_are_those_of_float64(
    rows: int, inputs: int, outputs: int, form: str, weights: str, bounds: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    grad, weight = matrix(rows, outputs, form, bounds[0]), matrix(outputs, inputs, weights, bounds[1])
    expected, out = grad.double() @ weight.double(), torch.empty(rows, inputs)
    fresh = products.to_input(grad, weight)
    assert fresh.is_contiguous()
    equal(fresh, expected)
    assert products.to_input(grad, weight, out) is out
    equal(out, expected)


@given(ROWS, WIDTHS, WIDTHS, forms, forms, largest, st.sampled_from([1, 1_500, 70**2]))
@settings(max_examples=60, deadline=None)
def test_gradients_of_weights_are_those_of_float64(
    rows: int, inputs: int, outputs: int, form: str, other: str, bounds: tuple[int, int], most: int
) -> None:
    torch.manual_seed(0)
    grad, x = matrix(rows, outputs, form, bounds[0]), matrix(rows, inputs, other, bounds[1])
    wider = matrix(outputs, 2 * inputs, "contiguous", 4_095)
    total = wider[:, ::2]  # as a group of the second layer's channels is a part of all
    expected, before, untouched = grad.double().T @ x.double(), total.double(), wider[:, 1::2].clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "MOST_WEIGHTS", most)
        fresh = products.to_weight(grad, x)
        assert products.to_weight(grad, x, total) is total
    assert fresh.is_contiguous()
    equal(fresh, expected)
    equal(wider[:, ::2], before + expected)
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


def test_gradients_of_weights_are_onednns_for_many_tokens_and_with_avx512(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, grad = torch.randn(700, 30), torch.randn(40, 30), torch.randn(700, 40)
    convolution = "aten::convolution_backward"
    monkeypatch.setattr(products, "LEAST_ROWS", 700)
    assert convolution in operators(lambda: products.to_weight(grad, x))
    monkeypatch.setattr(products, "LEAST_ROWS", 701)
    assert convolution not in operators(lambda: products.to_weight(grad, x))
    assert convolution in operators(lambda: products.to_input(grad, weight))
    monkeypatch.setattr(products, "LEAST_ROWS", 0)
    monkeypatch.setattr(products, "HAS_AVX512", False)
    assert convolution not in operators(lambda: products.to_weight(grad, x))
    assert convolution in operators(lambda: products.to_input(grad, weight))


@pytest.mark.parametrize("rows", [682, 683])
def test_no_gradient_goes_by_a_convolution_that_is_not_onednns(rows: int) -> None:
    x, weight, grad = torch.randn(rows, 30), torch.randn(40, 30), torch.randn(rows, 40)
    seen = operators(lambda: (products.to_input(grad, weight), products.to_weight(grad, x)))
    assert "aten::_slow_conv2d_backward" not in seen
    assert ("aten::convolution_backward" in seen) == (rows * 30 > 20_480)
