"""Copies of a model without its numbers: on ``meta``, or as fake CPU tensors, which hold nothing either."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import (  # private API of torch: used here only
    FakeTensor,
    FakeTensorMode,
    in_kernel_invocation_manager,
)
from torch.overrides import TorchFunctionMode


def meta_twin(model: nn.Module) -> nn.Module:
    """Return a deep copy of ``model`` with every tensor on ``meta``, shared ones still shared."""
    with _Copying(lambda tensor: torch.empty_like(tensor, device="meta")):
        return deepcopy(model)


def is_fake(tensor: object) -> bool:
    """Return whether a tensor is fake."""
    return isinstance(tensor, FakeTensor)


def fake_view(func: OpOverload, viewed: Any, *arguments: Any) -> Tensor:
    """Return the view of a fake tensor that ``func`` makes, by torch's own geometry, far faster than the mode's."""
    with in_kernel_invocation_manager(viewed.fake_mode):
        view = func(viewed, *arguments)
    return FakeTensor(viewed.fake_mode, view, viewed.fake_device)


class FakeTensors:
    """Makes fake CPU tensors that may meet in one operator.

    They are tensors for as long as they live: no mode needs to be entered. So what a forward makes out of no tensor
    (``torch.tensor``, ``torch.arange``) is real, as are the tables that a module makes once and keeps.
    """

    def __init__(self) -> None:
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)

    def twin(self, model: nn.Module) -> nn.Module:
        """Return a deep copy of ``model``, with strides, types and shared tensors as they are."""
        with _Copying(self._like):
            return deepcopy(model)

    def empty(self, *shape: int, dtype: torch.dtype, memory_format: torch.memory_format) -> Tensor:
        """Return a fake tensor of ``shape``."""
        with self._mode:
            return torch.empty(shape, dtype=dtype, device="cpu", memory_format=memory_format)

    def zeros(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """Return a fake tensor of ``shape``, as labels are."""
        with self._mode:
            return torch.zeros(shape, dtype=dtype, device="cpu")

    def _like(self, tensor: Tensor) -> Tensor:
        with self._mode:
            return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")


class _Copying(TorchFunctionMode):
    """Within it, copying a tensor makes an empty one by ``empty``.

    A memo of parameters and buffers would miss the tensors that a model keeps without registering them (cached index
    tables, weights that a parametrisation computes): those would stay behind on their device, and break the trace.
    """

    def __init__(self, empty: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._empty = empty

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is Tensor.clone:  # nn.Parameter copies its data so, and keeps its class, requires_grad and ties itself
            return self._empty(args[0])
        if func is Tensor.__deepcopy__:
            tensor, memo = args
            if id(tensor) not in memo:
                memo[id(tensor)] = self._twin(tensor)
            return memo[id(tensor)]
        return func(*args, **(kwargs or {}))

    def _twin(self, tensor: Tensor) -> Tensor:
        twin = self._empty(tensor).requires_grad_(tensor.requires_grad)
        return twin if tensor.is_leaf else twin.clone()  # a leaf that needs a gradient could not be written to in place
