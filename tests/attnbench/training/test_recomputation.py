"""Activation checkpointing of the backbone: the same gradients from less memory."""

from typing import Any

import pytest
import torch

import attnbench
from attnbench.measure.memory import TensorLedger

NAMES = attnbench.MECHANISMS.names()


def gradients(model: Any, images: torch.Tensor) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)  # of stochastic depth
    model.zero_grad(set_to_none=True)
    model(images).square().sum().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("mechanism", NAMES)
def test_gradients_are_the_same_stochastic_depth_included(mechanism: str, make_model: Any) -> None:
    model, images = make_model(mechanism, drop_path=0.5).train(), torch.randn(4, 3, 64, 64)
    kept = gradients(model, images)
    model.checkpointing = True
    torch.testing.assert_close(gradients(model, images), kept, rtol=0, atol=0)


def test_gradients_are_the_same_with_a_class_token() -> None:
    torch.manual_seed(0)
    model: Any = attnbench.create_model("pvt_tiny", resolution=(64, 64), num_classes=3)
    images = torch.randn(2, 3, 64, 64)
    kept = gradients(model, images)
    model.checkpointing = True
    torch.testing.assert_close(gradients(model, images), kept, rtol=0, atol=0)


@pytest.mark.parametrize("mechanism", ["swin", "focal"])
def test_the_peak_of_a_training_step_falls_by_two_fifths_and_more(mechanism: str, make_model: Any) -> None:
    model, images = make_model(mechanism).train(), torch.randn(6, 3, 128, 128)
    gradients(model, images)  # what is made once, masks above all
    peaks = []
    for model.checkpointing in (False, True):
        with TensorLedger() as ledger:
            gradients(model, images)
        peaks.append(ledger.peak)
    assert peaks[1] < 0.6 * peaks[0]


def test_without_a_backward_pass_nothing_is_recomputed(make_model: Any) -> None:
    model = make_model().eval()
    model.checkpointing = True
    calls: list[str] = []
    for block in (one for stage in model.blocks for one in stage):
        block.register_forward_hook(lambda *words: calls.append(type(words[0]).__name__))
    with torch.no_grad():
        model(torch.randn(1, 3, 64, 64))
    assert calls == ["Block"] * 8
