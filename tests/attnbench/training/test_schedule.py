"""The learning rate of every step, against timm's scheduler and closed forms."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnbench.recipe import Recipe
from attnbench.training.schedule import factor, warmup_steps


@pytest.mark.parametrize(("steps", "warmup", "start", "final"), [(96, 0.1, 0.0, 0.0), (300, 20 / 300, 1e-3, 1e-2)])
def test_cosine_is_the_schedule_of_timm(steps: int, warmup: float, start: float, final: float) -> None:
    from timm.scheduler import CosineLRScheduler

    peak = 1e-3
    recipe = Recipe(learning_rate=peak, warmup=warmup, warmup_start=start, final=final)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    theirs = CosineLRScheduler(
        optimizer,
        t_initial=steps,
        lr_min=final * peak,
        warmup_t=round(warmup * steps),
        warmup_lr_init=start * peak,
        t_in_epochs=False,
    )
    for step in range(steps):
        theirs.step_update(step)
        assert peak * factor(recipe, step, steps) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12, abs=0)


def test_linear_falls_by_the_same_amount_in_every_step() -> None:
    recipe = Recipe(schedule="linear", warmup=0.0, final=0.2)
    found = [factor(recipe, step, 40) for step in range(40)]
    assert found[0] == 1
    assert [before - after for before, after in pairwise(found)] == pytest.approx([0.8 / 40] * 39)


def test_steps_are_a_tenth_from_the_end_of_the_eighth_and_the_eleventh_epoch_on() -> None:
    recipe = Recipe(schedule="steps", milestones=(8 / 12, 11 / 12), warmup=0.0)
    per_epoch = 73
    found = [factor(recipe, step, 12 * per_epoch) for step in range(12 * per_epoch)]
    assert found == pytest.approx([1.0] * 8 * per_epoch + [0.1] * 3 * per_epoch + [0.01] * per_epoch, rel=1e-12)


def test_the_warm_up_of_500_iterations_starts_at_a_thousandth() -> None:
    recipe = Recipe(schedule="constant", warmup=500 / 90_000, warmup_start=0.001)
    assert warmup_steps(recipe, 90_000) == 500
    assert factor(recipe, 0, 90_000) == 0.001
    assert factor(recipe, 250, 90_000) == pytest.approx((1 + 0.001) / 2)
    assert factor(recipe, 500, 90_000) == 1


@given(
    st.sampled_from(["cosine", "linear", "steps", "constant"]),
    st.integers(1, 200),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_no_rate_is_above_the_peak_and_the_last_step_is_no_warm_up(
    schedule: str, steps: int, warmup: float, start: float, final: float
) -> None:
    recipe = Recipe(schedule=schedule, milestones=(0.5,), warmup=warmup, warmup_start=start, final=final)
    assert all(0 <= factor(recipe, step, steps) <= 1 + 1e-12 for step in range(steps))
    last = steps - 1
    assert factor(recipe, last, steps) == factor(replace(recipe, warmup=0.0), last, steps)


def test_half_way_cosine_is_half_way_between_peak_and_final() -> None:
    assert factor(Recipe(warmup=0.0, final=0.1), 50, 100) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 2)) / 2)


def test_an_unknown_schedule_is_an_error() -> None:
    with pytest.raises(ValueError, match="no schedule"):
        factor(Recipe(schedule="cosin", warmup=0.0), 0, 1)
