"""A second opinion on MACs: fvcore's count over a jit trace, with this project's formulas in place of fvcore's.

What is counted is what :mod:`attnbench.measure.macs` counts, multiply-accumulates of matrix products, convolutions and
attention, but by another way: torch's counter sees kernels as they are dispatched, fvcore reads the graph that
``torch.jit`` records above them, and no formula is shared. fvcore's own formulas give fused attention, ``baddbmm`` and
whole ``autograd.Function`` objects 0, misread matrices of unequal rank, and add norms and pooling, which are no sums of
products.

The trace runs on ``meta``: no memory, no arithmetic, so a cell that no machine can run can be counted. Two things in a
trace on ``meta`` are mended for that: sizes that Python reads become tensors while torch.jit records, which kernels
written in Python cannot compare, and a convolution is recorded only below the kernel that ``meta`` stops at. A product
whose result reaches no output is no part of the graph, and counts 0.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from math import isqrt, prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from attnbench.errors import UserError
from attnbench.measure.macs import first_line, input_dtype, no_fast_path
from attnbench.measure.twins import meta_twin

Value = Any  # torch._C.Value: a tensor, list or constant in the graph
Handler = Callable[[list[Value], list[Value]], int]  # MACs of one operator, from its inputs and outputs


def count_macs_fvcore(model: nn.Module, input_size: tuple[int, int, int]) -> int:
    """Count the MACs of one image of ``input_size`` (C, H, W) in ``eval()`` with fvcore; 1 MAC = 2 FLOPs.

    The model stays as it is and where it is (``meta`` too), and its weights are not copied. A model that cannot be
    copied, or that torch.jit cannot trace on ``meta``, is a ``UserError``.
    """
    with warnings.catch_warnings(), torch.inference_mode(False), torch.enable_grad(), no_fast_path():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and says so on import and of every constant
        from fvcore.nn import FlopCountAnalysis

        try:
            twin = meta_twin(model).eval().requires_grad_(False)  # torch.jit trips over a Function's in-place writes
            image = torch.empty(1, *input_size, dtype=input_dtype(model), device="meta")
            analysis = FlopCountAnalysis(twin, image).clear_op_handles().set_op_handle(**_handlers())
            analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)  # what is no product counts 0
            with _Traceable():
                return int(analysis.total())
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"MACs of {type(model).__name__} at {input_size} cannot be counted by fvcore: {first_line(error)}"
            ) from error


class _Traceable(TorchFunctionMode):
    """Within it, torch.jit can trace on ``meta``: sizes are numbers, and convolutions are recorded."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in _SIZES:
            with _untraced():
                return func(*args, **(kwargs or {}))
        return _CONVOLUTIONS.get(func, func)(*args, **(kwargs or {}))


@contextmanager
def _untraced() -> Iterator[None]:
    """Record nothing."""
    state: Any = torch._C._get_tracing_state()  # None outside of a trace
    if state is None:
        yield
        return
    torch._C._set_tracing_state(None)  # type: ignore[attr-defined]  # not in torch's stubs
    try:
        yield
    finally:
        torch._C._set_tracing_state(state)  # type: ignore[attr-defined]


def _convolve(
    input: Tensor,  # noqa: A002  # arguments and their order are those of torch.conv2d
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Do what torch.conv1d, conv2d and conv3d do, by the operator that a trace records."""
    if isinstance(padding, str):
        with _untraced():
            kernel = weight.shape[2:]
        steps = _each(dilation, weight) if padding == "same" else [0] * len(kernel)
        missing = [step * (side - 1) for step, side in zip(steps, kernel, strict=True)]
        input = F.pad(input, [part for total in reversed(missing) for part in (total // 2, total - total // 2)])  # noqa: A001
        padding = 0
    return _recorded(input, weight, bias, stride, padding, 0, groups, dilation, transposed=False)


def _recorded(
    input: Tensor,  # noqa: A002  # arguments and their order are those of torch.conv_transpose2d
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    transposed: bool = True,
) -> Tensor:
    """Convolve by ``aten::_convolution``; a single (C, ...) image becomes a batch for it."""
    single = input.ndim < weight.ndim
    stride, padding, dilation, extra = (_each(item, weight) for item in (stride, padding, dilation, output_padding))
    batch = input.unsqueeze(0) if single else input
    flags = (False, False, False, False)  # cuDNN's, which meta has no use for
    out = torch._convolution(batch, weight, bias, stride, padding, dilation, transposed, extra, groups, *flags)
    return out.squeeze(0) if single else out


def _each(value: int | tuple[int, ...], weight: Tensor) -> list[int]:
    """Return one number per dimension of the kernel."""
    given = [value] if isinstance(value, int) else list(value)
    return given if len(given) > 1 else given * (weight.ndim - 2)


_SIZES = {Tensor.shape.__get__, Tensor.size, Tensor.numel, Tensor.__len__}  # type: ignore[attr-defined]
_CONVOLUTIONS: Mapping[Callable[..., Any], Callable[..., Any]] = {
    torch.conv1d: _convolve,
    torch.conv2d: _convolve,
    torch.conv3d: _convolve,
    torch.conv_transpose1d: _recorded,
    torch.conv_transpose2d: _recorded,
    torch.conv_transpose3d: _recorded,
}


def _shape(value: Value) -> list[int]:
    sizes: list[int] = value.type().sizes()
    return sizes


def _product(left: int, inputs: list[Value], outputs: list[Value]) -> int:
    """Every number of the output is a sum over the last dimension of the input at ``left``."""
    return prod(_shape(outputs[0])) * _shape(inputs[left])[-1]


def _batch_sum(inputs: list[Value], outputs: list[Value]) -> int:
    """``addbmm`` sums over the batch too."""
    return _shape(inputs[1])[0] * _product(1, inputs, outputs)


def _tensordot(inputs: list[Value], outputs: list[Value]) -> int:
    """Kept and summed dimensions of both: (a s) (s b) -> (a b), so that (a s b)² is the product of all three sizes."""
    return isqrt(prod(_shape(inputs[0])) * prod(_shape(inputs[1])) * prod(_shape(outputs[0])))


def _convolution(inputs: list[Value], outputs: list[Value]) -> int:
    """The whole kernel at every place of the output or, transposed, of the input."""
    places = _shape(inputs[0] if inputs[6].toIValue() else outputs[0])
    return places[0] * prod(places[2:]) * prod(_shape(inputs[1]))


def _attention(inputs: list[Value], outputs: list[Value]) -> int:
    """Scores and their product with the values: (..., L, D) (..., S, D) (..., S, E) -> (..., L, E), masked or not."""
    query, key, value = (_shape(item) for item in inputs[:3])
    return prod(_shape(outputs[0])[:-1]) * key[-2] * (query[-1] + value[-1])


def _einsum(inputs: list[Value], _outputs: list[Value]) -> int:
    """Sum over the pairs that torch contracts one after the other; a pair that sums nothing is element-wise."""
    equation = inputs[0].toIValue().replace(" ", "")
    terms, arrow, result = equation.partition("->")
    shapes = [_shape(item) for item in inputs[1].node().inputs()]
    operands = [_labels(term, len(shape)) for term, shape in zip(terms.split(","), shapes, strict=True)]
    sizes: dict[str, int] = {}
    for labels, shape in zip(operands, shapes, strict=True):
        for label, size in zip(labels, shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
    dots = {label for label in sizes if label.startswith(".")}
    kept = set(result.replace(".", "")) if arrow else {label for label in sizes if terms.count(label) == 1}
    path = inputs[2].toIValue() or [0, 1] * (len(operands) - 1)
    left, total = [set(labels) for labels in operands], 0
    for first, second in zip(path[::2], path[1::2], strict=True):
        a, b = left[first], left[second]
        left = [labels for place, labels in enumerate(left) if place not in (first, second)]
        needed = kept | dots | set().union(*left)
        joined = (a | b) & (needed | (a & b))  # what one of them alone has, and nothing needs, is summed before
        total += prod(sizes[label] for label in joined) if joined - needed else 0
        left.append(joined & needed)
    return total


def _labels(term: str, rank: int) -> list[str]:
    """Return a label per dimension; those of an ellipsis are numbered from its end, where broadcasting aligns them."""
    before, dots, after = term.partition("...")
    hidden = rank - len(before) - len(after) if dots else 0
    return [*before, *(f".{place}" for place in range(hidden, 0, -1)), *after]


def _function(handlers: Mapping[str, Handler], _inputs: list[Value], outputs: list[Value]) -> int:
    """Count what an ``autograd.Function`` does itself in its forward."""
    total = 0
    for node in outputs[0].node().g("Subgraph").nodes():
        if node.kind() == "prim::PythonOp":  # called by it: torch.jit lists that one, and all it does, beside this too
            total -= _function(handlers, [], list(node.outputs()))
        elif node.kind() in handlers:
            total += handlers[node.kind()](list(node.inputs()), list(node.outputs()))
    return total


def _functions(base: type[Any]) -> Iterator[type[Any]]:
    found: list[type[Any]] = base.__subclasses__()
    for function in found:
        yield function
        yield from _functions(function)


def _handlers() -> dict[str, Handler]:
    """Return the formulas by operator, those of the ``autograd.Function`` classes that there are now included."""
    found: dict[str, Handler] = {
        "aten::_convolution": _convolution,
        "aten::scaled_dot_product_attention": _attention,
        "aten::einsum": _einsum,
        "aten::tensordot": _tensordot,
        "aten::addbmm": _batch_sum,
    }
    for name in ("linear", "matmul", "linalg_matmul", "mm", "bmm", "mv", "dot", "vdot", "inner"):
        found[f"aten::{name}"] = partial(_product, 0)
    for name in ("addmm", "addmv", "baddbmm"):  # the first input is what is added
        found[f"aten::{name}"] = found[f"aten::{name}_"] = partial(_product, 1)
    functions = {f"prim::PythonOp.{function.__name__}" for function in _functions(torch.autograd.Function)}
    return found | dict.fromkeys(functions, partial(_function, found))
