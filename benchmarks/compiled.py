"""Every mechanism compiled beside itself in eager mode, interleaved: ``python benchmarks/compiled.py``.

Compiled as ``attnbench run --compile`` does it. Nothing is timed unless the outputs agree. Models by mechanism are
``nano`` ones at 224 x 224.
"""

import argparse
from collections.abc import Callable

import torch
from racing import HEADER, Step, agree, inference, race, report, training
from torch import Tensor, nn

import attnbench
from attnbench.backbone import build_model
from attnbench.compiling import options
from attnbench.models import create_model

RESOLUTION, BATCH = 224, 8
PUBLISHED = ("swin_tiny", "focal_tiny", "pvt_v2_b2")


def compare(what: str, model: nn.Module, rounds: int, make: Callable[[nn.Module, Tensor], Step]) -> None:
    """Race a model compiled, without graph breaks, and as it is."""
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, options=options("cpu"))
    images = torch.randn(BATCH, 3, RESOLUTION, RESOLUTION)
    agree(compiled.eval(), model.eval(), images)
    report(f"{what}, {make.__name__}", race(make(compiled, images), make(model, images), rounds))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mechanisms", default=",".join(attnbench.MECHANISMS))
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    print(HEADER.replace("ours", "compiled").replace("theirs", "eager"))
    for name in given.mechanisms.split(","):
        for make in (inference, training):
            model = build_model(name, "nano", resolution=(RESOLUTION, RESOLUTION))
            compare(f"{name}, nano", model, given.rounds, make)
    for name in PUBLISHED:
        for make in (inference, training):
            compare(name, create_model(name, (RESOLUTION, RESOLUTION), 1000), given.rounds, make)


if __name__ == "__main__":
    main()
