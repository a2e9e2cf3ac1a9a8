"""Whole models in other memory formats, types and on CUDA: the outputs of float32 on a CPU."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import attnbench

NAMES = sorted(attnbench.MECHANISMS)
SIDES = (96, 120)  # a map of 24 x 30 tokens, which windows do not divide
FUSED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def model_and_images(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = attnbench.build_model(name, "nano", resolution=SIDES, num_classes=5).eval()
    return model, torch.randn(2, 3, *SIDES)


def gradients(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    model(images).square().sum().backward()
    return {key: value.grad.cpu() for key, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("step", [lambda model, images: model(images), gradients], ids=["outputs", "gradients"])
@pytest.mark.parametrize("name", NAMES)
def test_channels_last_changes_no_number(name: str, step: Callable[[nn.Module, Tensor], object]) -> None:
    model, images = model_and_images(name)
    expected = step(model, images)
    last = model.to(memory_format=torch.channels_last)
    actual = step(last, images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_autocast_to_bfloat16_is_near_float32(name: str) -> None:
    model, images = model_and_images(name)
    with torch.inference_mode():
        expected = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            actual = model(images)
    assert (actual.float() - expected).abs().max() < 0.05 * expected.abs().max()  # eight bits, eight blocks


@pytest.mark.cuda
@cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_fused_kernels_of_cuda_take_every_mechanism(name: str, dtype: torch.dtype) -> None:
    model, images = model_and_images(name)
    with torch.inference_mode():
        expected = model(images)
        with sdpa_kernel(FUSED):  # which raises where neither takes the mask or the head's size
            actual = model.to("cuda", dtype)(images.to("cuda", dtype)).float().cpu()
    tolerance = 1e-3 if dtype == torch.float32 else 0.05
    assert (actual - expected).abs().max() < tolerance * expected.abs().max()


@pytest.mark.cuda
@cuda
@pytest.mark.parametrize("name", NAMES)
def test_gradients_on_cuda_are_those_of_a_cpu(name: str) -> None:
    model, images = model_and_images(name)
    expected = gradients(model, images)
    actual = gradients(model.cuda(), images.cuda())
    torch.testing.assert_close(actual, expected, rtol=1e-2, atol=1e-4)
