"""Each mechanism's model, and timm's Swin-T beside ours once their outputs agree."""

from collections.abc import Callable

import pytest
import timm
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


@pytest.fixture(scope="module")
def twins() -> dict[str, nn.Module]:
    """Our Swin-T and timm's with the same weights; an error if they do not agree."""
    theirs = timm.create_model("swin_tiny_patch4_window7_224").eval()
    ours = attnbench.build_model("swin", "tiny", resolution=(224, 224)).eval()
    weights = [
        value for key, value in theirs.state_dict().items() if "attn_mask" not in key and "downsample" not in key
    ]
    merging = [value for key, value in theirs.state_dict().items() if "downsample" in key]
    state = ours.state_dict()
    for name, values in (("merging", merging), ("", weights)):
        keys = [key for key in state if key.startswith("merging") == bool(name)]
        state.update(zip(keys, values, strict=True))
    ours.load_state_dict(state)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images()), theirs(images()), atol=1e-4, rtol=1e-4)
    return {"attnbench": ours, "timm": theirs}


@pytest.mark.parametrize("whose", ["attnbench", "timm"])
@pytest.mark.benchmark(group="Swin-T, inference")
def test_swin_tiny(benchmark: BenchmarkFixture, twins: dict[str, nn.Module], whose: str) -> None:
    benchmark(forward(twins[whose]))
