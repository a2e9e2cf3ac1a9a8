"""Peak memory of one step: a ledger of tensors on CPU, the allocator's own count on CUDA, the process beside the first.

Of the three the ledger and the allocator are exact and repeatable; the resident set is what the process was charged,
with the allocator's leftovers and the operators' workspaces, and it is comparable in a fresh process only.
"""

import ctypes
import gc
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, UntypedStorage, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CPU_KIND = "cpu_tensor_ledger"
CUDA_KIND = "cuda_allocated"
RESERVED_KIND = "cuda_reserved"
DEVICE_KIND = "cuda_device"
PROCESS_KIND = "process_rss"

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


class TensorLedger(TorchDispatchMode):  # torch's __init_subclass__ has no types
    """Keeps the bytes of every storage that is allocated within the context and still alive, on whatever device.

    A storage counts once, however many tensors view it; one that was there before counts only what it grows by, and
    giving it up is no gain. In inference mode torch hands over composite operators whole (attention by the math kernel,
    with its scores): they are taken apart, as torch takes them apart before it runs them. What an operator allocates
    and frees within itself (a convolution's workspace) is not seen. ``UntypedStorage.resize_`` is no operator: it shows
    when the next operator touches the storage. Tensors are strided.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.current = 0  # bytes alive, above what was there at entry
        self.peak = 0  # bytes, the most that ``current`` was
        # id of a live storage -> reference that removes the entry, bytes from before entry, bytes counted in current
        self._entries: dict[int, tuple[weakref.ref[UntypedStorage], int, int]] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run one operator, or the parts of a composite one; enter what it allocated or resized."""
        if is_composite(func):
            with self:
                return func.decompose(*args, **(kwargs or {}))
        given = {id(storage): storage for storage in _storages((args, kwargs))}
        if func is torch.ops.aten.lift_fresh.default:  # torch.tensor(...) allocates out of sight: here it is first seen
            given = {}
        sizes = {key: storage.nbytes() for key, storage in given.items()}
        out = func(*args, **(kwargs or {}))
        for key, storage in (given | {id(storage): storage for storage in _storages(out)}).items():
            self._enter(key, storage, sizes.get(key, 0))
        self.peak = max(self.peak, self.current)
        return out

    def _enter(self, key: int, storage: UntypedStorage, size_before: int) -> None:
        """Bring the entry of a storage up to date; one that is not entered yet and did not grow needs none."""
        entry = self._entries.get(key)
        if entry is None and storage.nbytes() <= size_before:
            return
        reference, outside, counted = entry or (weakref.ref(storage, partial(self._leave, key)), size_before, 0)
        growth = max(storage.nbytes() - outside, 0)
        self.current += growth - counted
        self._entries[key] = reference, outside, growth

    def _leave(self, key: int, _: object) -> None:
        self.current -= self._entries.pop(key)[2]


def is_composite(func: object) -> TypeGuard[OpOverload]:
    """Return whether torch takes ``func`` apart on a CPU; one that has a kernel of its own too is not taken apart."""
    if not isinstance(func, OpOverload) or func.namespace == "prim":  # these ask a fake tensor for its device or layout
        return False
    return func._can_decompose() and not torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CPU")


def peak_memory(step: Callable[[], object], device: torch.device) -> tuple[tuple[int, str], ...]:
    """Measure a step that has not run yet in this process; return (bytes, kind) for each kind that ``device`` has.

    On CPU the resident set comes first, from a plain call: the ledger delays Python's releases by a little, which
    fragments the heap and was seen to add half again to the growth, and any earlier call of the step leaves freed
    pages that hide the growth. The ledger does not mind coming second; what the first call cached for good is not
    in it. On CUDA too the first call is left out of what the allocator counts: it allocates cuBLAS's workspace and may
    try cuDNN's algorithms. They are in the growth of the device's memory in use, which is read over the first call.
    """
    if device.type == "cuda":
        used = _used(device)
        step()
        first = max(0, _used(device) - used), DEVICE_KIND
        return (*_cuda_peaks(step, device), first)
    growth = peak_rss_growth(step)
    return peak_tensor_memory(step, device), growth


def peak_tensor_memory(step: Callable[[], object], device: torch.device) -> tuple[int, str]:
    """Call ``step`` once; return its peak of tensor memory in bytes above what was there before, and the kind."""
    gc.collect()  # a cycle that dies during the step would hide what the step allocates
    if device.type == "cuda":
        return _cuda_peaks(step, device)[0]
    with TensorLedger() as ledger:
        step()
    return ledger.peak, CPU_KIND


def _cuda_peaks(step: Callable[[], object], device: torch.device) -> tuple[tuple[int, str], tuple[int, str]]:
    """Call ``step`` once; return the growth of what the allocator gave out, and of what it held of the device."""
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()  # else what earlier calls left cached hides what the step reserves
    torch.cuda.reset_peak_memory_stats(device)
    allocated, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    step()
    torch.cuda.synchronize(device)
    return (
        (torch.cuda.max_memory_allocated(device) - allocated, CUDA_KIND),
        (torch.cuda.max_memory_reserved(device) - reserved, RESERVED_KIND),
    )


def _used(device: torch.device) -> int:
    """Return the bytes of a CUDA device that are in use, by whomever; what an allocator caches is."""
    torch.cuda.synchronize(device)
    free, total = torch.cuda.mem_get_info(device)
    return total - free


def peak_rss_growth(step: Callable[[], object]) -> tuple[int, str]:
    """Call ``step`` once; return how many bytes the peak resident set of this process grew by, and the kind.

    Linux and macOS. Where the peak cannot be reset (macOS, a closed /proc), a peak from before the step hides growth
    up to its height: the number is then a lower bound.
    """
    _start_libraries()
    gc.collect()
    peak = _peak_of_life
    if _reset_high_water():
        _give_back()
        _reset_high_water()
        peak = _high_water
    before = peak()
    step()
    return peak() - before, PROCESS_KIND


def inference_step(model: nn.Module, images: Tensor) -> Callable[[], None]:
    """Return the step of one forward pass of ``images`` (B, 3, H, W) in ``eval()`` and inference mode."""

    def step() -> None:
        model.eval()
        with torch.inference_mode():
            model(images)

    return step


def training_step(model: nn.Module, images: Tensor, loss: Callable[[Any], Tensor]) -> Callable[[], None]:
    """Return the step of forward, ``loss`` (outputs to scalar) and backward of ``images`` (B, 3, H, W) in ``train()``.

    Gradients are part of the step: none are left from before, none stay behind. The optimiser's state is not.
    """
    model.zero_grad(set_to_none=True)

    def step() -> None:
        model.train()
        try:
            torch.autograd.backward(loss(model(images)))
        finally:
            model.zero_grad(set_to_none=True)

    return step


def stand_in_loss(targets: Tensor) -> Callable[[Any], Tensor]:
    """Return what stands for the task's loss when a training step is timed: outputs to scalar.

    Logits (B, classes) have the cross-entropy with ``targets`` (B,); dense outputs, whose loss costs little beside the
    head, the sum of their means.
    """

    def loss(outputs: Any) -> Tensor:
        if isinstance(outputs, Tensor) and outputs.ndim == 2:
            return F.cross_entropy(outputs, targets)
        means = [leaf.mean() for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
        return torch.stack(means).sum()

    return loss


def _storages(tree: object) -> Iterator[UntypedStorage]:
    for leaf in tree_leaves(tree):
        if isinstance(leaf, Tensor):
            yield leaf.untyped_storage()
        elif isinstance(leaf, UntypedStorage):  # Tensor.set_
            yield leaf


def _start_libraries() -> None:
    """Map the code that importing torch and building a model map, and start the threads, on a toy.

    A forked worker begins without its template's mapped code, and would be charged for it. What the step's own kinds of
    operators bring in (convolutions and activations: oneDNN) is left to the step, as in a process of its own.
    """
    torch.autograd.backward(nn.Linear(8, 8)(torch.zeros(2, 8)).sum())


def _give_back() -> None:
    """Return to the system what importing and building left free on glibc's heap, where the growth would hide."""
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _reset_high_water() -> bool:
    try:
        _CLEAR_REFS.write_text("5")  # proc_pid_clear_refs(5): VmHWM starts again from the current resident set
    except OSError:
        return False
    return True


def _high_water() -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024  # "VmHWM:  123 kB"


def _peak_of_life() -> int:
    import resource  # not on Windows, where everything else here works

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS says bytes, Linux KiB
