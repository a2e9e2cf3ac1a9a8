"""Each mechanism's model."""

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

import attnbench

BATCH = 4


def images() -> Tensor:
    return torch.randn(BATCH, 3, 224, 224, generator=torch.Generator().manual_seed(0))


def forward(model: nn.Module) -> Callable[[], Tensor]:
    batch = images()

    def step() -> Tensor:
        with torch.inference_mode():
            output: Tensor = model(batch)
            return output

    model.eval()
    step()
    return step


@pytest.mark.parametrize("name", attnbench.MECHANISMS.names())
@pytest.mark.benchmark(group="nano, inference")
def test_inference(benchmark: BenchmarkFixture, name: str) -> None:
    benchmark(forward(attnbench.build_model(name, resolution=(224, 224), num_classes=10)))


@pytest.mark.parametrize("name", attnbench.MECHANISMS.names())
@pytest.mark.benchmark(group="nano, training step")
def test_training_step(benchmark: BenchmarkFixture, name: str) -> None:
    model, batch = attnbench.build_model(name, resolution=(224, 224), num_classes=10), images()

    def step() -> None:
        model.zero_grad(set_to_none=True)
        torch.autograd.backward(model(batch).square().mean())

    step()
    benchmark(step)
