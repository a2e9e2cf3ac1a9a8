"""Two steps raced: one call of each in turn within one process, so that whatever else the machine does befalls both."""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from attnbench.measure.statistics import Interval, paired_ratio

HEADER = "| what | ours, ms | theirs, ms | theirs / ours | 95 % |\n| --- | --- | --- | --- | --- |"

Step = Callable[[], object]


def inference(module: Callable[[Tensor], Tensor], x: Tensor) -> Step:
    """Return a step of inference; a module is put into ``eval()``."""
    if isinstance(module, nn.Module):
        module.eval()

    def step() -> object:
        with torch.inference_mode():
            return module(x)

    return step


def training(module: nn.Module, x: Tensor) -> Step:
    """Return a step of training: forward, backward, every parameter's gradient."""
    module.train()

    def step() -> None:
        module.zero_grad(set_to_none=True)
        module(x).square().mean().backward()

    return step


def agree(ours: Callable[[Tensor], Tensor], theirs: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Stop if the outputs differ."""
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


def race(ours: Step, theirs: Step, rounds: int) -> tuple[float, float, Interval]:
    """Return both median times in s, and theirs over ours, above 1 where we are faster."""
    times: tuple[list[float], list[float]] = [], []
    for step in (ours, theirs, ours, theirs):
        step()  # warm
    for number in range(rounds):
        for which in (0, 1) if number % 2 else (1, 0):
            start = time.perf_counter()
            (ours, theirs)[which]()
            times[which].append(time.perf_counter() - start)
    medians = [sorted(found)[rounds // 2] for found in times]
    return medians[0], medians[1], paired_ratio(times[1], times[0])


def report(what: str, raced: tuple[float, float, Interval]) -> None:
    """Print a row of the table."""
    ours, theirs, ratio = raced
    low, high = f"{ratio.low:.2f}", f"{ratio.high:.2f}"
    print(f"| {what} | {ours * 1e3:.1f} | {theirs * 1e3:.1f} | {ratio.value:.2f} | {low} to {high} |", flush=True)
