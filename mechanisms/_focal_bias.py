"""The bias of focal attention put together from the authors' tables: one row of keys for every query of a window."""

from collections.abc import MutableMapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from attnbench.compiling import wanted

from ._kept import Kept


def join(own: Tensor, ring: Tensor | None, pooled: list[Tensor], places: list[Tensor]) -> Tensor:
    """Return (heads, w², keys): own window and ring in the region's order, then the pooled levels.

    Args:
        own: ((2w - 1)², heads), the relative table of the own window.
        ring: (heads, w², entries), the free table of the ring, or None where there is no ring.
        pooled: of every pooled level (heads, distances), its relative table.
        places: of the own window's pairs in its table (w², w²), the two of :func:`region_order`, and of every pooled
            level's pairs in its table (w², cells).
    """
    if wanted(own) and not torch.is_grad_enabled():
        out: Tensor = _joined(own, ring, pooled, places)  # fused it took five times as long
        return out
    return _join(own, ring, pooled, places)


def _join(own: Tensor, ring: Tensor | None, pooled: list[Tensor], places: list[Tensor]) -> Tensor:
    own_places, order, twice, *pooled_places = places
    fine = own[own_places].permute(2, 0, 1)  # (heads, w², w²)
    if ring is not None:
        # Two copies of one key with biases a and b are one key with bias log(exp a + exp b).
        merged = torch.logaddexp(ring[..., twice[0]], ring[..., twice[1]])
        unreached = ring.new_full((*ring.shape[:2], 1), float("-inf"))
        fine = torch.cat([fine, ring, merged, unreached], dim=-1)[..., order]
    return torch.cat([fine, *(table[:, at] for table, at in zip(pooled, pooled_places, strict=True))], dim=-1)


_KEPT: MutableMapping[Tensor, Kept] = WeakIdKeyDictionary()  # by own table


@torch.library.custom_op(
    "attnbench::join_focal_biases",
    mutates_args=(),
    schema="(Tensor own, Tensor? ring, Tensor[] pooled, Tensor[] places) -> Tensor",
)
def _joined(own: Tensor, ring: Tensor | None, pooled: list[Tensor], places: list[Tensor]) -> Tensor:
    given = [own, *([] if ring is None else [ring]), *pooled, *places]
    kept = _KEPT.setdefault(own, Kept())
    return kept.get(lambda: _join(own, ring, pooled, places), given).clone()  # a graph writes over what it got


@_joined.register_fake
def _(own: Tensor, _ring: Tensor | None, _pooled: list[Tensor], places: list[Tensor]) -> Tensor:
    own_places, order, _, *pooled_places = places
    keys = order.numel() + sum(at.shape[1] for at in pooled_places)
    return own.new_empty(own.shape[1], own_places.shape[0], keys)


def region_order(own: NDArray[np.bool_], ring: NDArray[np.intp]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where each place of the region finds its bias, and which entries of the ring's table share a place.

    Biases lie in a row: the own window's, the table's of the ring (``ring`` has the place of each), the merged ones of
    entries that share a place, one for places that no entry has. The second is (2, shared places).
    """
    first = {place: entry for entry, place in reversed(list(enumerate(ring.tolist())))}
    last = {place: entry for entry, place in enumerate(ring.tolist())}
    shared = [place for place in first if first[place] != last[place]]
    order = np.full(own.size, own.sum() + ring.size + len(shared), dtype=np.int64)  # of no entry, unless told below
    order[own.ravel()] = np.arange(own.sum())
    for place, entry in first.items():
        order[place] = own.sum() + entry
    for index, place in enumerate(shared):
        order[place] = own.sum() + ring.size + index
    return order, np.array([[first[place] for place in shared], [last[place] for place in shared]], dtype=np.int64)
