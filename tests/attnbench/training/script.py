"""A training as a process of its own, for tests that kill it, or that need several. Run by path, with JSON words.

``die`` names a moment: ``writing:N``, before the N-th piece of checkpoints is written, or ``replacing:N``, before the
N-th complete file takes its place.
"""

import json
import os
import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import attnbench
from attnbench.recipe import Recipe
from attnbench.task_contract import Batch, Loading
from attnbench.training import checkpoint
from attnbench.training.distributed import train_in_processes
from attnbench.training.loop import train


class Sometimes(nn.Module):
    """Two layers, of which a batch may use one only."""

    def __init__(self) -> None:
        super().__init__()
        self.always, self.rarely = nn.Linear(4, 1), nn.Linear(4, 1)


class SometimesTask:
    """Image ``n`` of a pass uses the second layer where ``n`` is in ``USES``."""

    USES = (0, 5, 9, 10, 26)  # of 40 in batches of 8: both halves, one of them, none
    identity = "sometimes.v1"

    def batches(self, split: str, resolution: Any, loading: Loading, recipe: Recipe) -> Iterator[Batch]:
        del resolution, recipe
        together = loading.batch_size * loading.ranks
        for number in range(loading.skip, 40 // together if split == "train" else 1):
            start = number * together + loading.rank * loading.batch_size
            places = torch.arange(start, start + loading.batch_size)
            yield Batch(torch.sin(places[:, None] * torch.arange(1.0, 5.0)), places)

    def loss(self, model: Any, batch: Batch, recipe: Recipe) -> Tensor:
        del recipe
        losses = model.always(batch.images).square().mean()
        used = torch.tensor([int(place) in self.USES for place in batch.targets])
        if used.any():
            losses = losses + (model.rarely(batch.images[used]) - 1).square().sum() / len(used)
        return losses

    def predict(self, model: nn.Module, batch: Batch, recipe: Recipe) -> Tensor:
        del model, recipe
        return batch.images

    def score(self) -> Any:
        return NoScore()


class NoScore:
    """Scores nothing."""

    outcomes: tuple[float, ...] = ()

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Forget them."""

    def compute(self) -> dict[str, float]:
        return {}


def build(mechanism: str, drop_path: float, device: torch.device) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    if mechanism == "sometimes":
        return Sometimes(), SometimesTask()
    task: Any = attnbench.TASKS["classification"](None)
    model = attnbench.build_model(
        mechanism,
        "nano",
        resolution=(64, 64),
        drop_path=drop_path,
        head=lambda channels: task.head(channels, task.num_classes),
    )
    return model.to(device), task


def say(word: object) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def die_at(moment: str) -> None:
    what, number = moment.split(":")
    count = 0

    def counted() -> None:
        nonlocal count
        count += 1
        if count == int(number):
            os.kill(os.getpid(), signal.SIGKILL)

    if what == "replacing":
        replace = Path.replace

        def replacing(self: Path, target: Any) -> Any:
            counted()
            return replace(self, target)

        Path.replace = replacing  # type: ignore[method-assign]
    else:
        write = checkpoint._Watched.write

        def writing(self: Any, data: Any) -> int:
            counted()
            return write(self, data)

        checkpoint._Watched.write = writing  # type: ignore[method-assign]


def main() -> None:
    words = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    recipe = Recipe.from_json(words["recipe"])
    make = partial(build, words["mechanism"], recipe.drop_path)
    cpu = torch.device("cpu")
    model, task = make(cpu)
    if "die" in words:
        die_at(words["die"])
    common: dict[str, Any] = {
        "resolution": (64, 64),
        "seed": 0,
        "device": cpu,
        "autocast": None,
        "workers": words.get("workers", 0),
        "progress": say,
        "checkpoint": Path(words["checkpoint"]) if "checkpoint" in words else None,
        "every": words.get("every", 60.0),
    }
    processes = words.get("processes", 1)
    if processes == 1:
        training = train(model, task, recipe, **common)
    else:
        training = train_in_processes(model, make, recipe, processes=processes, threads=processes, **common)
    torch.save({"model": model.state_dict(), "losses": list(training.losses)}, words["out"])
    say(json.dumps([training.curve, training.images]))


if __name__ == "__main__":
    main()
