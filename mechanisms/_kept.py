"""What is made of parameters alone, kept in inference for as long as these stay the same."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode


class Kept:
    """A tensor that depends on parameters alone: in inference on a CPU it is made again only when their values change.

    The values are compared, not a count of writes, which misses those through ``.data``. Elsewhere it is made in every
    call: comparing would make the host wait for a GPU, a graph must hold the making, and who watches operators (a
    ledger of memory, a count of MACs, fake tensors) shall see the same ones every time. Copies and files of a module
    hold nothing of it.
    """

    def __init__(self) -> None:
        self._content: tuple[object, tuple[Tensor, ...], Tensor] | None = None

    def get(self, make: Callable[[], Tensor], parameters: Iterable[Tensor], key: object = None) -> Tensor:
        """Return what ``make`` returns, or returned when ``key`` and the values of ``parameters`` were these."""
        now = tuple(parameters)
        if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or not all(map(_is_plain, now)):
            return make()
        if torch.compiler.is_compiling() or _get_current_dispatch_mode() is not None:
            return make()
        content = self._content
        if content is None or content[0] != key or not _same(content[1], now):
            with torch.inference_mode(False), torch.no_grad():
                content = key, tuple(parameter.detach().clone() for parameter in now), make()
            self._content = content  # at once, since threads may share a module
        return content[2]

    def __reduce__(self) -> tuple[type["Kept"], tuple[()]]:
        """Begin anew in a copy."""
        return Kept, ()


def _is_plain(tensor: Tensor) -> bool:
    """Tell whether the values can be compared at once: on a CPU, and no subclass."""
    return type(tensor) in (Tensor, torch.nn.Parameter) and tensor.device.type == "cpu"


def _same(before: tuple[Tensor, ...], now: tuple[Tensor, ...]) -> bool:
    alike = (a.shape == b.shape and a.dtype == b.dtype for a, b in zip(before, now, strict=True))
    return all(alike) and all(map(torch.equal, before, now))
