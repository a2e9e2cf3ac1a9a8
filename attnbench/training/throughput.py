"""How fast the loader of a training is when nothing waits for the model."""

import time

from attnbench.recipe import Recipe
from attnbench.task_contract import Loading, Task

from .batches import ended

ENDLESS = 10**12  # samples: more than any measurement draws
AHEAD = 2  # batches that a worker loads ahead of the loop


def loader_throughput(
    task: Task, recipe: Recipe, *, resolution: tuple[int, int], seed: int, workers: int, seconds: float = 5.0
) -> float:
    """Return the images per second that the training's loader alone delivers, over at least ``seconds``.

    What was loaded ahead before the clock started is left out, and so is the start of the workers.
    """
    size = recipe.batch_size // recipe.accumulate
    loading = Loading(size, seed=seed, samples=ENDLESS, workers=workers)
    with ended(task.batches("train", resolution, loading, recipe)) as batches:
        for _ in range(1 + AHEAD * workers):
            next(batches)
        begin, count = time.perf_counter(), 0
        while not count or time.perf_counter() - begin < seconds:
            next(batches)
            count += size
        return count / (time.perf_counter() - begin)
