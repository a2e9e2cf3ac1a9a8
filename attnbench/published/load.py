"""A published model from its authors' configuration and weights."""

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor

from attnbench.backbone import Backbone, assemble
from attnbench.errors import UserError
from attnbench.published.catalogue import Kind
from attnbench.published.families import design
from attnbench.published.keys import BUFFERS, Reading, ours, theirs

Shape = tuple[int, ...]
_SHOWN = 3  # keys of a sort that an error names


def build(
    kind: str, config: Mapping[str, Any], resolution: tuple[int, int], num_classes: int | None = None, **more: Any
) -> Backbone:
    """Return the model that a configuration means, freshly initialised; ``resolution`` is (H, W) in pixels.

    ``more`` may hold ``drop_path`` and ``head``, see :func:`attnbench.build_model`.

    Raises:
        UserError: anything in ``config`` that is unknown or that no published model has.
    """
    meant = design(kind, config)
    classes = meant.num_classes if num_classes is None else num_classes
    drop_path, head = more.get("drop_path", meant.drop_path), more.get("head")
    return assemble(meant.architecture, meant.mechanism, resolution, classes, drop_path, head, meant.settings)


def from_published(
    kind: str, config: Mapping[str, Any], weights: Mapping[str, Tensor], resolution: tuple[int, int]
) -> Backbone:
    """Return the model of ``config`` with ``weights``, in float32 and in ``eval()``.

    Args:
        kind: focal, focal_fast, swin, pvt or pvt_v2.
        config: the authors' argument names and values.
        weights: tensors under the authors' keys; index tables and masks among them are ignored.
        resolution: (H, W) in pixels that the model is built for.

    Raises:
        UserError: a configuration that is not understood; a weight that is missing, unexpected or misshapen, named.
    """
    model = build(kind, config, resolution)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    model.load_state_dict(translate(cast(Kind, kind), weights, expected))
    return model.eval()


def translate(kind: Kind, weights: Mapping[str, Tensor], expected: Mapping[str, Shape]) -> dict[str, Tensor]:
    """Return ``weights`` under our names, checked against the ``expected`` shapes.

    Raises:
        UserError: a weight that is missing, unexpected or misshapen, by the authors' key.
    """
    if not isinstance(weights, Mapping):
        raise UserError(f"weights must be a mapping from key to tensor, not {type(weights).__name__}")
    found: dict[str, Tensor] = {}
    unexpected, misshapen = [], []
    for key, tensor in weights.items():
        if not isinstance(key, str) or not isinstance(tensor, Tensor):
            raise UserError(f"the weights of {key!r} are {type(tensor).__name__}, not a tensor under a name")
        targets = [(name, reading) for name, reading in ours(kind, key) if name in expected]
        if not targets:
            unexpected += [] if BUFFERS.fullmatch(key) else [key]
        for name, reading in targets:
            read = _read(tensor, reading, expected[name])
            if read is None:
                misshapen.append(f"{key} is {tuple(tensor.shape)}, expected {_expected(reading, expected[name])}")
            else:
                found[name] = read
    refused = {line.partition(" is ")[0] for line in misshapen}
    missing = [key for name in expected if name not in found and (key := theirs(kind, name)) not in refused]
    faults = (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen))
    lines = [f"{title}: {_first(list(dict.fromkeys(items)))}" for title, items in faults if items]
    if lines:
        raise UserError(f"these weights do not fit this {kind} model; {'; '.join(lines)}")
    return found


def _read(tensor: Tensor, reading: Reading, expected: Shape) -> Tensor | None:
    """Return the part of a tensor that belongs under one of our names, or None if it has another shape."""
    if reading == "first":
        first = tensor[:, :1] if tensor.ndim == 3 else tensor
        return first if tuple(first.shape) == expected else None
    if tuple(tensor.shape) != _expected(reading, expected):
        return None
    if reading == "as it is":
        return tensor
    rest = tensor if reading == "map" else tensor[:, 1:]
    return rest.reshape(expected)


def _expected(reading: Reading, expected: Shape) -> Shape:
    """Return the shape that the authors' tensor should have."""
    if reading in ("map", "map after the first"):
        return (1, expected[1] * expected[2] + (reading != "map"), expected[3])
    return expected


def _first(items: list[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more
