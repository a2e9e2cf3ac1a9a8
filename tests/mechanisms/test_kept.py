"""Biases kept in inference: made once, and again whenever a parameter changed, however it was written to."""

import copy
import pickle
from collections.abc import Callable
from importlib import import_module

import pytest
import torch
from torch import Tensor, nn

import attnbench
from attnbench.measure.memory import TensorLedger

MECHANISMS = ("focal", "focal_fast", "swin")


def module_and_map(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = attnbench.build_model(name, "nano", resolution=(64, 64), num_classes=3).eval()
    return model, torch.randn(1, 3, 64, 64)


def close(actual: Tensor, expected: Tensor) -> None:
    # Not to the last digit: where tensors lie in memory decides in which order a kernel sums.
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def through_data(parameter: nn.Parameter) -> None:
    parameter.data.mul_(3)


def in_place(parameter: nn.Parameter) -> None:
    with torch.no_grad():
        parameter.mul_(3)


def in_inference(parameter: nn.Parameter) -> None:
    with torch.inference_mode():
        parameter.mul_(3)


def by_numpy(parameter: nn.Parameter) -> None:
    parameter.detach().numpy()[...] *= 3


@pytest.mark.parametrize("write", [through_data, in_place, in_inference, by_numpy])
@pytest.mark.parametrize("name", MECHANISMS)
def test_a_changed_table_changes_the_output_as_in_a_new_model(name: str, write: Callable[[nn.Parameter], None]) -> None:
    model, images = module_and_map(name)
    with torch.inference_mode():
        before = model(images)
    for key, parameter in model.named_parameters():
        if "relative_position_bias_table" in key or "coord2rpb" in key:
            write(parameter)
    fresh, _ = module_and_map(name)
    fresh.load_state_dict(model.state_dict())
    with torch.inference_mode():
        after, expected = model(images), fresh(images)
    close(after, expected)
    assert not torch.allclose(after, before, atol=1e-3)


@pytest.mark.parametrize("name", MECHANISMS)
def test_inference_equals_the_forward_of_training_and_is_the_same_twice(name: str) -> None:
    model, images = module_and_map(name)
    with torch.inference_mode():
        first, second = model(images), model(images)
    assert torch.equal(first, second)
    close(first, model(images).detach())


@pytest.mark.parametrize("name", MECHANISMS)
def test_inference_leaves_nothing_that_training_could_not_use(name: str) -> None:
    model, images = module_and_map(name)
    with torch.inference_mode():
        model(images)
    model.train()
    model(images).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", MECHANISMS)
def test_other_sizes_and_precisions_in_turn_get_their_own(name: str) -> None:
    model, images = module_and_map(name)
    wide = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        alone = [module_and_map(name)[0](item) for item in (images, wide)]
        for item, expected in zip((images, wide, images), (*alone, alone[0]), strict=True):
            close(model(item), expected)
        with torch.autocast("cpu", torch.bfloat16):
            model(images)
        close(model(images), alone[0])
        assert model.bfloat16()(images.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("name", MECHANISMS)
def test_copies_and_pickles_hold_nothing_of_it(name: str) -> None:
    model, images = module_and_map(name)
    size = len(pickle.dumps(model))
    with torch.inference_mode():
        expected = model(images)
    assert len(pickle.dumps(model)) == size
    with torch.inference_mode():
        close(copy.deepcopy(model)(images), expected)


def test_it_is_made_once_while_key_and_values_stay_and_every_time_where_they_are_not_compared() -> None:
    kept, parameter, made = import_module("attnbench.mechanisms._kept").Kept(), nn.Parameter(torch.ones(3)), []

    def make() -> Tensor:
        made.append(1)
        return parameter * 2

    def makes(calls: int, key: object = None) -> int:
        before = len(made)
        for _ in range(calls):
            close(kept.get(make, iter([parameter]), key), parameter * 2)
        return len(made) - before

    with torch.inference_mode():
        assert makes(3) == 1
        assert makes(2, key=(7, 7)) == 1
        parameter.data.add_(1)
        assert makes(2, key=(7, 7)) == 1
        with TensorLedger():
            assert makes(3, key=(7, 7)) == 3
    assert makes(3, key=(7, 7)) == 3
