"""The resident set of a process predicted from the order in which one step allocates and frees: no step is run.

A ledger of tensors is less than the process for four reasons, each modelled from operators alone:

* glibc keeps freed blocks below its moving threshold on a heap that only its top can shrink, see :class:`Heap`;
* operators allocate within themselves, see ``WORKSPACES``;
* a matrix product packs its operands into buffers that every thread keeps;
* the code of an operator becomes resident when it first runs, in windows that the kernel maps around each fault.

All four are what a process is charged that has imported torch, built the model and then runs the step once.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, UntypedStorage
from torch._ops import OpOverload
from torch.utils._pytree import tree_leaves

from attnbench import products
from attnbench.measure.heap import WORD, Chunk, Heap
from attnbench.measure.memory import TensorLedger, is_composite
from attnbench.measure.pass_ledger import quick_view
from attnbench.measure.workspaces import WORKSPACES, Call

# Sizes (B) of the small objects that live as long as a storage (TensorImpl, StorageImpl) and as long as the graph (of
# one operator: node, its edges, saved variables, shapes). Their number decides how the heap breaks up, their sizes
# hardly. Read off the small blocks alive at the end of the forward pass, per operator.
TENSOR = (200, 88)
NODE = (24, 24, 24, 40, 56, 104, 184, 488, 488)

# MKL packs into buffers that grow with the columns; a thread keeps the one of each new greatest number. Products of few
# rows are not packed. Read off its allocations: 400 KiB and 512 B a column, of which it uses less.
PACKED_ROWS = 128
PACKING, PACKING_PER_COLUMN = 160 * 2**10, 512  # B
# Pages of code: what the first products, convolutions and activations bring in, and what each further operator does.
CODE, CODE_PER_OPERATOR = 45 * 2**18, 192 * 2**10  # B
# What oneDNN keeps of each size of a product, code that it writes for it above all: fitted to five processes each of
# pvt, identity and swin in inference, with it and without; it holds in training.
CODE_PER_SIZE = 512 * 2**10  # B

aten = torch.ops.aten
PRODUCTS = frozenset({aten.addmm.default, aten.mm.default, aten.addmm.out, aten.mm.out, aten.addmm_.default})
WRITING = frozenset({aten.addmm.out, aten.mm.out, aten.addmm_.default})  # into what is there, oneDNN's from a new one


class ResidentLedger(TensorLedger):
    """A ledger that also predicts the resident set, on fake tensors of a CPU or, beside the ledger, on real ones."""

    def __init__(self, threads: int | None = None) -> None:
        super().__init__()
        self._threads = threads or torch.get_num_threads()
        self._heap = Heap()
        self._chunks: dict[int, list[Chunk]] = {}  # id of a live storage -> its data and its objects
        self._operators: set[str] = set()
        self._widest, self._packed = 0, 0  # columns of a product, and bytes that a thread packs it into
        self._by_onednn: set[tuple[int, ...]] = set()  # sizes of products

    @property
    def peak_resident(self) -> int:
        """Return by how many bytes the resident set grows while the context lasts, in a process that runs it first."""
        code = CODE + len(self._operators) * CODE_PER_OPERATOR + len(self._by_onednn) * CODE_PER_SIZE
        return self._heap.peak + self._threads * self._packed + code

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run one operator; enter its tensors, then what it allocates within itself."""
        if is_composite(func) or not isinstance(func, OpOverload):
            return super().__torch_dispatch__(
                func, types, args, kwargs
            )  # which hands a composite's parts to this method
        if func.namespace == "prim":  # asks a fake tensor for its device or layout
            return func(*args, **(kwargs or {}))
        self._operators.add(str(func))
        view = quick_view(func, args, kwargs)
        if view is not None:
            self._record(args)
            return view
        out = super().__torch_dispatch__(func, types, args, kwargs)
        workspace = WORKSPACES.get(func)
        size = workspace(Call(args, out, self._threads)) if workspace else 0
        if size:
            self._heap.release(self._heap.allocate(size))
        if func in PRODUCTS:
            self._multiply(args[-2], args[-1], out if func in WRITING else None)
        self._record(args)
        return out

    def _record(self, args: Sequence[Any]) -> None:
        """Allocate the objects of an operator in the graph, if it is in one, until the step ends, as this heap does."""
        if _is_recorded(args):
            for size in NODE:
                self._heap.allocate(size, WORD)

    def _multiply(self, x: Tensor, weight: Tensor, out: Tensor | None) -> None:
        """Let every thread have buffers for a product of more columns than any before, or code be written for it."""
        rows, columns = x.shape[0], weight.shape[1]
        if products.would_be_by_onednn(x, weight):
            self._by_onednn.add((rows, *weight.shape))
            if out is not None:
                self._heap.release(self._heap.allocate(out.numel() * out.element_size()))
        elif rows >= PACKED_ROWS and columns > self._widest:
            self._widest = columns
            self._packed += PACKING + PACKING_PER_COLUMN * columns

    def _enter(self, key: int, storage: UntypedStorage, size_before: int) -> None:
        before = self._entries.get(key)
        super()._enter(key, storage, size_before)
        after = self._entries.get(key)
        if after is None or after == before:
            return
        self._release(key)
        if after[2]:
            objects = [self._heap.allocate(size, WORD) for size in TENSOR]
            self._chunks[key] = [self._heap.allocate(after[2]), *objects]

    def _leave(self, key: int, reference: object) -> None:
        super()._leave(key, reference)
        self._release(key)

    def _release(self, key: int) -> None:
        for chunk in self._chunks.pop(key, ()):
            self._heap.release(chunk)


def _is_recorded(args: Sequence[Any]) -> bool:
    """Tell whether a graph for the backward pass gets a node of an operator with these arguments."""
    tensors = (leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor))
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
