"""Relative position: the index from a query's and a key's place in their windows into a learned table."""

import torch
from torch import Tensor


def relative_position_index(queries: int, keys: int) -> Tensor:
    """Return the table row of each query and key: (queries², keys²), both squares in row-major order.

    Along one axis the offset query - key runs over queries + keys - 1 values; the table has their square as rows (Swin
    Transformer, arXiv 2103.14030, section 3.2, where both squares are the same window).
    """
    offset = torch.arange(queries)[:, None] - torch.arange(keys)[None, :] + keys - 1  # (queries, keys)
    span = queries + keys - 1
    index = offset[:, None, :, None] * span + offset[None, :, None, :]  # (qy, qx, ky, kx)
    return index.reshape(queries**2, keys**2)
