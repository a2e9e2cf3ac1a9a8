"""The ledger of a pass that is predicted: it counts traffic and names attention kernels."""

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._pytree import tree_leaves

from attnbench.measure.memory import TensorLedger, is_composite
from attnbench.measure.twins import fake_view, is_fake
from attnbench.parts import times

_aten = torch.ops.aten
# What only this kernel of scaled_dot_product_attention calls; math is recognised by the softmax that is its own.
_KERNELS: Mapping[str, str] = {
    "aten::baddbmm": "products",
    "aten::_scaled_dot_product_flash_attention_for_cpu": "flash",
    "aten::_safe_softmax": "math",
    "aten::_native_multi_head_attention": "native multi-head",
    "aten::_transformer_encoder_layer_fwd": "native encoder layer",
}
# Fake tensors take most of a pass's time for these, with Python in the place of torch's own geometry.
_VIEWS = {
    _aten._reshape_alias.default,
    _aten._unsafe_view.default,
    _aten.expand.default,
    _aten.permute.default,
    _aten.select.int,
    _aten.slice.Tensor,
    _aten.squeeze.dim,
    _aten.t.default,
    _aten.transpose.int,
    _aten.unfold.default,
    _aten.unsqueeze.default,
    _aten.view.default,
}
_ALLOCATING = {_aten.empty, _aten.empty_like, _aten.empty_strided, _aten.new_empty, _aten.new_empty_strided}


class PassLedger(TensorLedger):
    """A ledger that also counts traffic and keeps the kernels of attention that it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.traffic = 0  # bytes that operators read and write
        self._kernels: set[str] = set()

    @property
    def kernels(self) -> str:
        """The kernels of the attention that ran, ``none`` if there was none; several are joined by ``+``."""
        return "+".join(sorted(self._kernels)) or "none"

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run one operator, or the parts of a composite one."""
        if not isinstance(func, OpOverload):
            return super().__torch_dispatch__(func, types, args, kwargs)
        if func.namespace == "prim":  # asks a fake tensor for its device or layout
            return func(*args, **(kwargs or {}))
        if is_composite(func):
            return super().__torch_dispatch__(func, types, args, kwargs)  # which hands its parts to this method
        view = quick_view(func, args, kwargs)
        if view is not None:
            return view
        if name := _KERNELS.get(func._schema.name):
            self._kernels.add(name)
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if not (func.is_view or func in _VIEWS) and func.overloadpacket not in _ALLOCATING:
            self.traffic += times() * sum(map(_bytes, chain(_tensors((args, kwargs)), _tensors(out))))
        return out


def quick_view(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any] | None) -> Tensor | None:
    """Return the view that ``func`` makes of a fake tensor, without the mode; None where there is no such short way."""
    return fake_view(func, *args) if func in _VIEWS and is_fake(args[0]) and not kwargs else None


def _tensors(tree: object) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def _bytes(tensor: Tensor) -> int:
    """Return what one pass over a tensor moves: an expanded one has fewer numbers than elements."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
