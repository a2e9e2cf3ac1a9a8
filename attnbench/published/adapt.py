"""The authors' weights at another resolution than they were made for, or with another window or number of classes.

Position embeddings are interpolated bilinearly, as PVT's authors do for dense prediction; relative position tables
bicubically, as Swin's do for fine-tuning. Nothing is invented: where a model of the wanted resolution has parameters
that the weights lack, as Focal's ring in a last stage of more than one window, the model keeps the structure of the
weights and is only run at that resolution.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnbench.errors import UserError
from attnbench.published.catalogue import MODELS, Kind, Published, published
from attnbench.published.keys import ours
from attnbench.published.load import Shape, build, from_published, translate

# Structures that published weights have, besides the wanted resolution's: one window in the last stage, or more.
STRUCTURES = ((224, 224), (448, 448))
TABLE = "relative_position_bias_table"
_FIRST_TABLE = f"layers.0.blocks.0.attn.{TABLE}"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model with the authors' weights, in ``eval()``, and in words what was changed to make them fit."""

    model: nn.Module
    num_classes: int
    adapted: tuple[str, ...]


def load(name: str, weights: Mapping[str, Tensor], resolution: tuple[int, int]) -> Loaded:
    """Return the published model ``name`` with ``weights``, to be run at ``resolution`` (H, W) in pixels.

    The number of classes is that of the weights' classifier, and Swin's window that of its tables.

    Raises:
        UserError: an unknown name; weights that do not fit, with the keys and the model that they do fit, if any.
    """
    model = published(name)
    config, notes = _own(model, weights)
    refused: dict[tuple[int, int], UserError] = {}
    for structure in dict.fromkeys((resolution, *STRUCTURES)):
        try:
            found, changes = adapt(model.kind, weights, shapes(model.kind, config, structure))
            translate(model.kind, found, shapes(model.kind, config, structure))
        except UserError as error:
            refused[structure] = error
            continue
        if structure != resolution:
            notes.append(f"the structure is kept that the model has at {structure[0]} x {structure[1]} pixels")
        built = from_published(model.kind, config, found, structure)
        return Loaded(built, config["num_classes"], (*notes, *changes))
    raise UserError(f"{refused[STRUCTURES[0]]}{_hint(weights)}")


def adapt(
    kind: Kind, weights: Mapping[str, Tensor], expected: Mapping[str, Shape]
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the weights with embeddings and tables interpolated to the ``expected`` shapes, and what was done.

    ``expected`` has our names; keys of the weights are the authors'. All that is no embedding and no table is handed on
    as it is, whether it fits or not.

    Raises:
        UserError: an embedding whose length no map has that is square or in proportion to the expected one.
    """
    found: dict[str, Tensor] = {}
    done: Counter[str] = Counter()
    for key, tensor in weights.items():
        name = next((name for name, reading in ours(kind, key) if name in expected and reading != "first"), None)
        shape = expected.get(name or "", ())
        note, found[key] = None, tensor
        if name is None or not isinstance(tensor, Tensor):
            continue
        if name.startswith("positions.") and tensor.ndim == 3:
            note, found[key] = _embedding(key, tensor, shape)
        elif name.endswith(TABLE) and tensor.ndim == 2:
            note, table = _table(tensor.T, shape[0])
            note, found[key] = note and f"{TABLE}: {note}", table.T
        elif f"{TABLE}_to_windows" in name and tensor.ndim == 2:
            note, found[key] = _table(tensor, shape[1])
            note = note and f"{TABLE}_to_windows: {note}"
        done.update([note] if note else [])
    return found, [note if times == 1 else f"{note}, in {times} blocks" for note, times in done.items()]


def shapes(kind: Kind, config: Mapping[str, Any], resolution: tuple[int, int]) -> dict[str, Shape]:
    """Return the shapes of a model's weights under our names, without making them."""
    with torch.device("meta"):
        model = build(kind, config, resolution)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _own(model: Published, weights: Mapping[str, Tensor]) -> tuple[dict[str, Any], list[str]]:
    """Return the configuration with what the weights decide, and what differs from the published one."""
    config, notes = {"num_classes": 1000} | model.config, []
    head, table = weights.get("head.weight"), weights.get(_FIRST_TABLE)
    if head is not None and head.ndim == 2:
        config["num_classes"] = head.shape[0]
    if model.kind == "swin" and table is not None and table.ndim == 2:
        window = (isqrt(table.shape[0]) + 1) // 2
        if window != config["window_size"]:
            notes.append(f"window_size: {window} as in the weights, not {config['window_size']}")
            config["window_size"] = window
    return config, notes


def _embedding(key: str, tensor: Tensor, shape: Shape) -> tuple[str | None, Tensor]:
    """Interpolate (1, N, C), or (1, 1 + N, C) in the last stage, to the grid of ``shape`` (1, H, W, C)."""
    first = int(key == "pos_embed4")  # the class token's position stays as it is
    count, (height, width) = tensor.shape[1] - first, shape[1:3]
    side = isqrt(count)
    grid = (side, side) if side**2 == count else _in_proportion(count, height, width)
    if grid is None:
        raise UserError(f"{key} has {count} positions, which is no square map and none like {height} x {width}")
    if grid == (height, width):
        return None, tensor
    stored = tensor[:, first:].float().unflatten(1, grid).permute(0, 3, 1, 2)
    resized = F.interpolate(stored, size=(height, width), mode="bilinear", align_corners=False)
    positions = torch.cat([tensor[:, :first].float(), resized.flatten(2).transpose(1, 2)], dim=1)
    return f"{key}: from {grid[0]} x {grid[1]} to {height} x {width} tokens", positions


def _in_proportion(count: int, height: int, width: int) -> tuple[int, int] | None:
    """Return the map of ``count`` tokens with the proportions of ``height`` x ``width``, if there is one."""
    rows = isqrt(count * height // width)
    return (rows, count // rows) if rows and rows * rows * width == count * height and count % rows == 0 else None


def _table(table: Tensor, wanted: int) -> tuple[str | None, Tensor]:
    """Interpolate (heads, n²) to (heads, wanted); what is no square stays as it is."""
    old, new = isqrt(table.shape[1]), isqrt(wanted)
    if old == new or old**2 != table.shape[1] or not old:
        return None, table
    square = table.float().unflatten(1, (old, old))[None]
    resized = F.interpolate(square, size=(new, new), mode="bicubic", align_corners=False)
    return f"from {old} x {old} to {new} x {new} offsets", resized[0].flatten(1)


def _hint(weights: Mapping[str, Tensor]) -> str:
    """Return which published model the weights fit at 224 x 224 pixels."""
    fitting = [name for name, model in MODELS.items() if _fits(model, weights)]
    if fitting:
        return f"; they are weights of {' or '.join(fitting)}"
    if "head.fc.weight" in weights or any(key.startswith("stages.") for key in weights):
        return "; their keys are not the authors'; for a model of timm give --model timm:NAME"
    return ""


def _fits(model: Published, weights: Mapping[str, Tensor]) -> bool:
    config, _ = _own(model, weights)
    try:
        expected = shapes(model.kind, config, STRUCTURES[0])
        translate(model.kind, adapt(model.kind, weights, expected)[0], expected)
    except UserError:
        return False
    return True
