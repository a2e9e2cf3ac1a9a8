"""Every built-in mechanism as one writes it first, in plain PyTorch: what our modules are to be compared with.

Scores are written out, softmax(q kᵀ / √D + bias + mask) v, for all queries at once, and nothing is kept between calls.
The weights are those of the module, whose settings are the uniform backbone's: no padding is attended.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# The modules come from plug-ins, which a type checker does not see: Any below is the attention module of that name.


def naive(module: nn.Module, x: Tensor) -> Tensor:
    """Return what ``module`` maps (B, H, W, C) to, computed the plain way from its parameters."""
    return VERSIONS[type(module).__name__](module, x)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """Attend with heads of their own. (..., heads, N, D), (..., heads, K, D) -> (..., N, C)."""
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = scores + mask
    out: Tensor = (scores.softmax(-1) @ v).transpose(-3, -2).flatten(-2)
    return out


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """Part the channels among the heads. (..., N, C) -> (..., heads, N, D)."""
    parts: Tensor = tokens.unflatten(-1, (heads, -1))
    return parts.transpose(-3, -2)


def pad(x: Tensor, multiple: int) -> Tensor:
    """Pad (B, H, W, C) with zeros at the bottom and right until both sides are multiples."""
    return F.pad(x, (0, 0, 0, -x.shape[2] % multiple, 0, -x.shape[1] % multiple))


def to_windows(x: Tensor, window: int) -> Tensor:
    """Cut a map into windows. (B, H, W, C) -> (B, windows, window², C)."""
    batch, height, width, dim = x.shape
    x = x.reshape(batch, height // window, window, width // window, window, dim)
    return x.transpose(2, 3).reshape(batch, -1, window**2, dim)


def from_windows(windows: Tensor, window: int, height: int, width: int) -> Tensor:
    """Put windows together again. (B, windows, window², C) -> (B, H, W, C)."""
    batch, _, _, dim = windows.shape
    x = windows.reshape(batch, height // window, width // window, window, window, dim)
    return x.transpose(2, 3).reshape(batch, height, width, dim)


def unfold(x: Tensor, side: int, stride: int, reach: int) -> Tensor:
    """Cut overlapping squares out of a map with ``reach`` zeros around. (B, H, W, C) -> (B, squares, side², C)."""
    x = F.pad(x, (0, 0, reach, reach, reach, reach))
    squares = x.unfold(1, side, stride).unfold(2, side, stride)  # (B, rows, columns, C, side, side)
    return squares.permute(0, 1, 2, 4, 5, 3).reshape(len(x), -1, side**2, x.shape[-1])


def mask_of(hidden: Tensor, like: Tensor) -> Tensor:
    """Return what is added to scores: -inf where ``hidden``, else 0."""
    return torch.zeros(hidden.shape, dtype=like.dtype, device=like.device).masked_fill(hidden, -torch.inf)


def relative_index(window: int, span: int, device: torch.device) -> Tensor:
    """Return the index into a relative bias table for a window's queries and a square's keys: (window², span²)."""
    away = torch.arange(window, device=device)[:, None] - torch.arange(span, device=device) + span - 1
    index = away[:, None, :, None] * (window + span - 1) + away[None, :, None, :]  # (window, window, span, span)
    return index.reshape(window**2, span**2)


def identity(_: Any, x: Tensor) -> Tensor:
    """Return the map."""
    return x


def full(module: Any, x: Tensor) -> Tensor:
    """Attend all tokens from all tokens."""
    q, k, v = (split_heads(part, module.heads) for part in module.qkv(x.flatten(1, 2)).chunk(3, dim=-1))
    out: Tensor = module.proj(attend(q, k, v))
    return out.reshape(x.shape)


def attend_reduced(module: Any, x: Tensor, reduced: Tensor) -> Tensor:
    """Attend reduced tokens (B, M, C) from all tokens of the map (B, H, W, C)."""
    q = split_heads(module.q(x.flatten(1, 2)), module.heads)
    k, v = (split_heads(part, module.heads) for part in module.kv(reduced).chunk(2, dim=-1))
    out: Tensor = module.proj(attend(q, k, v))
    return out.reshape(x.shape)


def pvt(module: Any, x: Tensor) -> Tensor:
    """Attend a map that a strided convolution reduced."""
    if module.sr_ratio == 1:
        return attend_reduced(module, x, x.flatten(1, 2))
    reduced = module.sr(pad(x, module.sr_ratio).permute(0, 3, 1, 2))  # (B, C, H / ratio, W / ratio)
    return attend_reduced(module, x, module.norm(reduced.flatten(2).transpose(1, 2)))


def pvt_linear(module: Any, x: Tensor) -> Tensor:
    """Attend a map that was averaged to a fixed number of cells."""
    reduced = module.sr(F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), module.side))  # (B, C, side, side)
    return attend_reduced(module, x, F.gelu(module.norm(reduced.flatten(2).transpose(1, 2))))


def swin(module: Any, x: Tensor) -> Tensor:
    """Attend within windows of the padded and rolled map."""
    window, heads = module.window, module.heads
    height, width = x.shape[1:3]
    down, right = (module.border.shift if side > window else 0 for side in (height, width))
    padded = pad(x, window)
    if down or right:
        padded = padded.roll((-down, -right), dims=(1, 2))
    q, k, v = (split_heads(part, heads) for part in module.qkv(to_windows(padded, window)).chunk(3, dim=-1))
    index = relative_index(window, window, x.device)
    bias = module.relative_position_bias_table[index].permute(2, 0, 1)  # (heads, window², window²)
    whole = height % window == 0 and width % window == 0
    mask = None if whole and not (down or right) else swin_mask(x, window, down, right)
    out = from_windows(module.proj(attend(q, k, v, bias, mask)), window, *padded.shape[1:3])
    if down or right:
        out = out.roll((down, right), dims=(1, 2))
    return out[:, :height, :width]


def swin_mask(x: Tensor, window: int, down: int, right: int) -> Tensor:
    """Return the mask between tokens that only the roll, or padding, brought together: (windows, 1, w², w²)."""
    parts = []
    for side, shift in ((x.shape[1], down), (x.shape[2], right)):
        place = torch.arange(side + -side % window, device=x.device)
        part = (place < shift).long() + 2 * (place >= side)  # 0: the map, 1: what the roll brings, 2: padding
        parts.append(part.roll(-shift))
    part = 3 * parts[0][:, None] + parts[1]
    part = to_windows(part[None, :, :, None], window)[0]  # (windows, w², 1)
    return mask_of(part != part.transpose(1, 2), x)[:, None]


def focal(module: Any, x: Tensor) -> Tensor:
    """Attend the tokens around every window and the pooled windows farther around it, in one softmax."""
    window, heads = module.window, module.heads
    height, width = x.shape[1:3]
    ((span, _),) = module.regions  # one pooled level, of one cell per window
    expand, reach = (module.side - window) // 2, span // 2
    padded = pad(x, window)
    rows, columns = padded.shape[1] // window, padded.shape[2] // window
    q, k, v = module.qkv(padded).chunk(3, dim=-1)  # (B, H, W, C) each
    pooled = pool_windows(module, padded).unflatten(1, (rows, columns))
    _, pooled_k, pooled_v = module.qkv(pooled).chunk(3, dim=-1)  # (B, rows, columns, C) each
    real = pad(x.new_ones(1, height, width, 1), window)
    regions = [
        torch.cat([unfold(fine, module.side, window, expand), unfold(coarse, span, 1, reach)], 2)
        for fine, coarse in ((k, pooled_k), (v, pooled_v), (real, real.new_ones(1, rows, columns, 1)))
    ]  # (B, windows, K, C), twice, and (1, windows, K, 1)
    mask = mask_of(regions[2][0, :, None, None, :, 0] == 0, x)  # (windows, 1, 1, K)
    q, k, v = (split_heads(part, heads) for part in (to_windows(q, window), *regions[:2]))
    bias = torch.cat([fine_bias(module, expand), pooled_bias(module, span)], -1)  # (heads, window², K)
    out = from_windows(attend(q, k, v, bias, mask), window, *padded.shape[1:3])
    projected: Tensor = module.proj(out[:, :height, :width])
    return projected


def pool_windows(module: Any, padded: Tensor) -> Tensor:
    """Pool every window to one token by a linear layer. (B, H, W, C) -> (B, windows, C)."""
    layer = module.pool_layers[0]
    return F.linear(to_windows(padded, module.window).transpose(2, 3), layer.weight, layer.bias).squeeze(-1)


def fine_bias(module: Any, expand: int) -> Tensor:
    """Return the bias of the fine region: a relative table inside the window, a free one around it: (heads, w², K)."""
    window, table = module.window, module.relative_position_bias_table
    own: Tensor = table[relative_index(window, window, table.device)].permute(2, 0, 1)  # (heads, w², w²)
    if expand == 0:
        return own
    around = (expand,) * 4
    own = F.pad(own.unflatten(-1, (window, window)), around).flatten(-2)
    inside = F.pad(torch.ones(window, window, dtype=torch.bool, device=table.device), around).flatten()  # (K,)
    place = (~inside).cumsum(0) - 1  # of a key of the ring, among those of the ring
    return torch.where(inside, own, module.relative_position_bias_table_to_neighbors[0][..., place])


def pooled_bias(module: Any, span: int) -> Tensor:
    """Return the bias of the pooled windows: (heads, w², span²)."""
    table: Tensor = module.relative_position_bias_table_to_windows[0]
    return table[:, relative_index(module.window, span, table.device)]


def focal_fast(module: Any, x: Tensor) -> Tensor:
    """Attend the tokens and the pooled windows that are nearest to the middle of each window."""
    window, heads, dim = module.window, module.heads, x.shape[-1]
    height, width = x.shape[1:3]
    padded = pad(x, window)
    places = torch.cartesian_prod(torch.arange(padded.shape[1]), torch.arange(padded.shape[2]))
    places = places.reshape(1, *padded.shape[1:3], 2)
    asking = to_windows(places, window)[0]  # (windows, w², 2)
    centres = asking[:, window**2 // 2]  # for pooled windows the place of the key too
    q, k, v = module.qkv(padded).chunk(3, dim=-1)
    fine = [part[:, :height, :width].reshape(len(x), -1, dim) for part in (k, v)]
    coarse = module.qkv(pool_windows(module, padded)).chunk(3, dim=-1)[1:]
    levels = [(places[0, :height, :width].reshape(-1, 2), *fine), (centres, *coarse)]
    keys, values, biases = [], [], []
    for network, (key_places, k, v) in zip(module.coord2rpb_all, levels, strict=True):
        chosen = nearest(centres, key_places, module.selection.topk)  # (windows, K)
        away = asking[:, :, None] - key_places[chosen][:, None]  # (windows, w², K, 2)
        biases.append(network(away.to(x)).permute(0, 3, 1, 2))
        keys.append(k[:, chosen.to(x.device)])  # (B, windows, K, C)
        values.append(v[:, chosen.to(x.device)])
    q, k, v = (split_heads(part, heads) for part in (to_windows(q, window), torch.cat(keys, 2), torch.cat(values, 2)))
    out = from_windows(attend(q, k, v, torch.cat(biases, -1)), window, *padded.shape[1:3])
    projected: Tensor = module.proj(out[:, :height, :width])
    return projected


def nearest(centres: Tensor, places: Tensor, topk: int) -> Tensor:
    """Return the nearest places (N, 2) of every centre (windows, 2), at most ``topk``: (windows, K).

    On the CPU: which of equally near places come first depends on the device.
    """
    distances = (centres[:, None] - places).pow(2).sum(-1).float().sqrt()
    return torch.topk(distances, min(topk, len(places)), largest=False).indices


VERSIONS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "IdentityMixing": identity,
    "FullAttention": full,
    "ShiftedWindowAttention": swin,
    "FocalAttention": focal,
    "NearestFocalAttention": focal_fast,
    "SpatialReductionAttention": pvt,
    "LinearReductionAttention": pvt_linear,
}
