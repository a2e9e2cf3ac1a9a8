"""Every mechanism beside its naive version, interleaved in one process: ``python benchmarks/beside_naive.py``.

Both have the same weights, and nothing is timed unless their outputs agree. Modules stand alone, on the maps of the
``tiny`` backbone's first three stages at 224 x 224; models are that backbone whole, in which only attention differs.
"""

import argparse
from collections.abc import Callable
from copy import deepcopy
from functools import partial

import torch
from naive import naive
from racing import HEADER, Step, agree, inference, race, report, training
from torch import Tensor, nn

import attnbench
from attnbench.backbone import build_model
from attnbench.contract import Slot
from attnbench.sizes import SIZES

RESOLUTION, BATCH = 224, 8
STAGES = range(3)  # the fourth is one window


class Naive(nn.Module):
    """The naive version of a module, with its weights."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        return naive(self.module, x)


def modules(name: str, rounds: int) -> None:
    """Race a mechanism's modules, the second of a stage, which is the shifted one."""
    size = SIZES["tiny"]
    for stage in STAGES:
        side, dim = RESOLUTION // 4 // 2**stage, size.dim * 2**stage
        module = attnbench.MECHANISMS[name].build(Slot(dim, size.heads[stage], stage, 1, (side, side))).eval()
        x = torch.randn(BATCH, side, side, dim)
        agree(module, partial(naive, module), x)
        raced = race(inference(module, x), inference(partial(naive, module), x), rounds)
        report(f"{name}, module, {side} x {side} x {dim}", raced)


def models(name: str, rounds: int, make: Callable[[nn.Module, Tensor], Step]) -> None:
    """Race a mechanism's model."""
    ours = build_model(name, "tiny", resolution=(RESOLUTION, RESOLUTION)).eval()
    theirs = deepcopy(ours)
    for stage in theirs.blocks:
        for block in stage:  # type: ignore[attr-defined]
            block.attn = Naive(block.attn)
    images = torch.randn(BATCH, 3, RESOLUTION, RESOLUTION)
    agree(ours, theirs, images)
    report(f"{name}, model, {make.__name__}", race(make(ours, images), make(theirs, images), rounds))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mechanisms", default=",".join(name for name in attnbench.MECHANISMS if name != "identity"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    print(HEADER)
    for name in given.mechanisms.split(","):
        modules(name, 3 * given.rounds)
        models(name, given.rounds, inference)
        models(name, given.rounds, training)


if __name__ == "__main__":
    main()
