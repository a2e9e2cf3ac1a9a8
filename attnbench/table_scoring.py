"""Scores the models of a table whose weights are given."""

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from attnbench.errors import UserError
from attnbench.models import check
from attnbench.tables.measured import Key, Resolution

BATCH = 64


def parse_weights(items: Sequence[str]) -> dict[str, Path]:
    """Return the file of each model from ``NAME=FILE`` words.

    Raises:
        UserError: a word of another form, an unknown model, or a model twice.
    """
    found: dict[str, Path] = {}
    for item in items:
        name, equals, file = item.partition("=")
        if not (equals and name and file):
            raise UserError(f"--weights {item!r} is not NAME=FILE")
        check(name)
        if name in found:
            raise UserError(f"--weights: {name} is given twice")
        found[name] = Path(file)
    return found


def score(weights: Mapping[str, Path], data: Path, resolutions: Sequence[Resolution]) -> dict[Key, float]:
    """Return the top-1, a fraction, of every model at every resolution on the images under ``data``.

    Raises:
        UserError: weights or data that do not work, or do not work together.
    """
    import torch

    from attnbench.checkpoints import read
    from attnbench.environment import resolve_device
    from attnbench.evaluation import evaluate, find_images, preprocessing_of
    from attnbench.weights import load_model

    images, device = find_images(data), torch.device(resolve_device("auto"))
    found: dict[Key, float] = {}
    for name, file in weights.items():
        tensors = read(file)
        for resolution in resolutions:
            loaded = load_model(name, tensors, resolution)
            if loaded.num_classes != len(images.classes):
                there = f"{str(data)!r} holds {len(images.classes)}"
                raise UserError(f"the weights of {name} tell {loaded.num_classes} classes apart, but {there}")
            preprocessing = preprocessing_of(loaded.model, resolution)
            tell = partial(_tell, name, len(images.files))
            found[name, resolution] = evaluate(loaded.model, images, preprocessing, device, BATCH, 0, tell).top1
    return found


def _tell(name: str, total: int, done: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[Kscoring {name}: {done} of {total} images")
        sys.stderr.flush()
