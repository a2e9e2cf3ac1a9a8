"""A training as a process of its own, for tests that kill it, or that need several. Run by path, with JSON words.

``die`` names a moment: ``writing:N`` in the N-th checkpoint, half of it written, or ``replacing:N``, before the N-th
complete file takes its place.
"""

import json
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import attnbench
from attnbench.recipe import Recipe
from attnbench.training.distributed import train_in_processes
from attnbench.training.loop import train


def build(mechanism: str, drop_path: float, device: torch.device) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    task: Any = attnbench.TASKS["classification"](None)
    model = attnbench.build_model(
        mechanism,
        "nano",
        resolution=(64, 64),
        drop_path=drop_path,
        head=lambda channels: task.head(channels, task.num_classes),
    )
    return model.to(device), task


def die_at(moment: str) -> None:
    what, number = moment.split(":")
    count = 0

    def now() -> bool:
        nonlocal count
        count += 1
        return count == int(number)

    if what == "replacing":
        replace = Path.replace

        def replacing(self: Path, target: Any) -> Path:
            if now():
                os.kill(os.getpid(), signal.SIGKILL)
            return replace(self, target)

        Path.replace = replacing  # type: ignore[method-assign,assignment]
    else:
        save = torch.save

        def saving(content: Any, file: Any) -> None:
            if now():
                with open(file._file.name, "wb") as half:
                    half.write(b"PK\x03\x04" + bytes(5000))
                os.kill(os.getpid(), signal.SIGKILL)
            save(content, file)

        torch.save = saving


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
        "progress": lambda share: print(share, flush=True),
        "checkpoint": Path(words["checkpoint"]) if "checkpoint" in words else None,
        "every": words.get("every", 60.0),
    }
    processes = words.get("processes", 1)
    if processes == 1:
        training = train(model, task, recipe, **common)
    else:
        training = train_in_processes(model, make, recipe, processes=processes, threads=processes, **common)
    torch.save({"model": model.state_dict(), "losses": list(training.losses)}, words["out"])
    print(json.dumps([training.curve, training.seconds, training.waiting, training.images]))


if __name__ == "__main__":
    main()
