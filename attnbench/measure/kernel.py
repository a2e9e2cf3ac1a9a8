"""Which kernel ``scaled_dot_product_attention`` runs: chosen by an axis of the run, or seen while the step runs."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from attnbench.errors import unknown

KERNELS: Mapping[str, SDPBackend] = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}


_ATTENTION = F.scaled_dot_product_attention
_NATIVE: Mapping[Any, str] = {  # operators that hold attention and more
    torch._native_multi_head_attention: "native multi-head",
    torch._transformer_encoder_layer_fwd: "native encoder layer",
}

Step = Callable[[], object]


def with_kernel(step: Step, name: str | None) -> Step:
    """Return ``step`` under which only the kernel ``name`` may run; None leaves the choice to torch.

    A kernel that cannot take some attention's arguments is torch's RuntimeError when the step runs.
    """
    if name is None:
        return step
    if name not in KERNELS:
        raise unknown("attention kernel", name, KERNELS)
    backend = KERNELS[name]

    def chosen() -> object:
        with sdpa_kernel(backend):
            return step()

    return chosen


def attention_kernel(step: Step) -> str:
    """Run ``step`` once and return the kernels that its attention takes, such as ``flash``; ``none`` without attention.

    ``math`` is no kernel of its own: attention falls apart into two products and a softmax, and stores the scores.
    ``products`` are such as a mechanism writes out itself, by ``baddbmm``, be it in a backward pass of its own.
    """
    with _Choices() as choices, choices.within_functions_of_torch():
        step()
    return "+".join(sorted(choices.names)) or "none"


class _Choices(TorchFunctionMode):
    """Asks, at every call of ``scaled_dot_product_attention``, which kernel torch chooses for its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is _ATTENTION:
            self._note(*args, **(kwargs or {}))
        elif func is torch.baddbmm:
            self.names.add("products")
        elif func in _NATIVE:
            self.names.add(_NATIVE[func])
        return func(*args, **(kwargs or {}))

    @contextmanager
    def within_functions_of_torch(self) -> Iterator[None]:
        """See calls from within torch's own functions too, which a mode is handed whole (nn.MultiheadAttention)."""

        def noted(*args: Any, **kwargs: Any) -> Any:
            self._note(*args, **kwargs)
            return _ATTENTION(*args, **kwargs)

        F.scaled_dot_product_attention = noted
        try:
            yield
        finally:
            F.scaled_dot_product_attention = _ATTENTION

    def _note(self, *args: Any, **kwargs: Any) -> None:
        # Private, and the one place that knows: what a dispatch mode sees differs under inference mode.
        chosen = SDPBackend(torch._fused_sdp_choice(*args, **kwargs))
        self.names.add(next((name for name, backend in KERNELS.items() if backend == chosen), "math"))
