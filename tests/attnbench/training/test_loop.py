"""The training loop, on a small task: what a step is, what is recorded, and what ends it."""

import copy
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from attnbench.errors import UserError
from attnbench.recipe import Recipe
from attnbench.task_contract import Loading
from attnbench.training.evaluation import evaluate
from attnbench.training.loop import DivergedError
from attnbench.training.schedule import factor
from attnbench.training.throughput import loader_throughput

SHORT = Recipe(samples=32, batch_size=8, warmup=0.0, learning_rate=3e-3)
CPU = torch.device("cpu")


def states(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_training_is_adamw_on_the_task_s_loss_with_the_schedule(noise: Any, make_model: Any, fit: Any) -> None:
    trained, plain = make_model(), make_model()
    recipe = replace(SHORT, weight_decay=0.0, clip=0.0)  # one group does
    training = fit(trained, noise, recipe)
    optimizer = torch.optim.AdamW(plain.parameters(), weight_decay=0.0)
    losses = []
    for step, batch in enumerate(noise.batches("train", (32, 32), Loading(8, samples=32), recipe)):
        optimizer.param_groups[0]["lr"] = recipe.learning_rate * factor(recipe, step, 4)
        loss = noise.loss(plain, batch, recipe)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert training.losses == tuple(losses)
    assert_same(trained.state_dict(), plain.state_dict())
    assert training.images == 32


def test_gradients_are_clipped_to_their_norm(noise: Any, make_model: Any, fit: Any, monkeypatch: Any) -> None:
    seen: list[float] = []
    step = torch.optim.AdamW.step

    def spied(self: Any) -> None:
        parameters = [one for group in self.param_groups for one in group["params"]]
        seen.append(torch.cat([one.grad.flatten() for one in parameters]).norm().item())
        step(self)

    monkeypatch.setattr(torch.optim.AdamW, "step", spied)
    fit(make_model(), noise, replace(SHORT, clip=0.0))
    free, seen[:] = list(seen), []
    fit(make_model(), noise, replace(SHORT, clip=0.01))
    assert all(norm > 0.1 for norm in free)
    assert seen == pytest.approx([0.01] * 4, rel=1e-3)


def test_accumulated_parts_are_the_whole_batch(noise: Any, make_model: Any, fit: Any) -> None:
    whole, parts = make_model().double(), make_model().double()

    def loss(model: nn.Module, batch: Any, recipe: Recipe) -> torch.Tensor:
        return nn.functional.cross_entropy(model(batch.images.double()), batch.targets)

    noise.loss = loss
    one = fit(whole, noise, SHORT)
    four = fit(parts, noise, replace(SHORT, accumulate=4))
    assert four.losses == pytest.approx(one.losses, rel=1e-10)
    torch.testing.assert_close(whole.state_dict(), parts.state_dict(), rtol=1e-7, atol=1e-9)


def test_the_averaged_weights_are_the_mean_of_their_definition(noise: Any, make_model: Any, fit: Any) -> None:
    after: list[dict[str, torch.Tensor]] = []
    plain = make_model()

    def keep(share: float) -> None:
        after.append(states(plain))

    fit(plain, noise, SHORT, progress=keep)
    expected = after[0]
    for step, weights in enumerate(after[1:], 1):
        decay = min(0.7, 1 - (1 + step) ** (-2 / 3))  # timm's warm-up
        expected = {name: decay * old + (1 - decay) * weights[name] for name, old in expected.items()}
    averaged = make_model()
    fit(averaged, noise, replace(SHORT, ema=0.7))
    torch.testing.assert_close(averaged.state_dict(), expected, rtol=1e-5, atol=1e-7)
    assert not torch.equal(averaged.head.fc.weight, plain.head.fc.weight)


def test_the_curve_holds_scores_evenly_spread_of_what_would_be_kept(noise: Any, make_model: Any, fit: Any) -> None:
    model, recipe = make_model(), replace(SHORT, evaluations=2, ema=0.5)
    training = fit(model, noise, recipe)
    assert [images for images, _ in training.curve] == [16, 32]
    score = evaluate(model, noise, recipe, resolution=(32, 32), device=CPU, autocast=None, workers=0, progress=print)
    assert training.curve[-1][1] == score.metrics


def test_evaluations_in_between_change_nothing(noise: Any, make_model: Any, fit: Any) -> None:
    quiet, scored = make_model(drop_path=0.5), make_model(drop_path=0.5)
    one = fit(quiet, noise, SHORT)
    other = fit(scored, noise, replace(SHORT, evaluations=4))
    assert one.losses == other.losses
    assert_same(quiet.state_dict(), scored.state_dict())


def test_stochastic_depth_depends_on_the_seed_and_not_on_the_caller_s_generators(
    noise: Any, make_model: Any, fit: Any
) -> None:
    one = fit(make_model(drop_path=0.5), noise, SHORT)
    model = make_model(drop_path=0.5)
    torch.manual_seed(9)
    assert fit(model, noise, SHORT).losses == one.losses
    whole = fit(make_model(drop_path=0.0), noise, SHORT)
    assert whole.losses != one.losses


def test_every_step_has_random_numbers_of_its_own(noise: Any, make_model: Any, fit: Any) -> None:
    drawn: list[tuple[float, float, float]] = []

    def loss(model: nn.Module, batch: Any, recipe: Recipe) -> torch.Tensor:
        drawn.append((torch.rand(1).item(), float(np.random.random()), random.random()))
        return model(batch.images).mean()

    noise.loss = loss
    fit(make_model(), noise, replace(SHORT, accumulate=2))
    assert len({number for row in drawn for number in row}) == 3 * 8


def test_a_loss_that_is_no_number_ends_the_training_and_its_step_is_named(
    noise: Any, make_model: Any, fit: Any, tmp_path: Path
) -> None:
    noise.poisoned = 17  # in the third batch
    model, file = make_model(), tmp_path / "state"
    with pytest.raises(DivergedError, match="the loss was nan at step 3 of 4"):
        fit(model, noise, SHORT, checkpoint=file, every=0.0)
    kept = torch.load(file, weights_only=True)
    assert kept["step"] == 2
    assert all(torch.isfinite(tensor).all() for tensor in kept["tensors"]["model"].values())


def test_a_gradient_that_is_no_number_ends_the_training_before_the_weights_are_lost(
    noise: Any, make_model: Any, fit: Any
) -> None:
    def loss(model: nn.Module, batch: Any, recipe: Recipe) -> torch.Tensor:
        return (model(batch.images) * 0).abs().sqrt().mean()

    noise.loss = loss
    model = make_model()
    with pytest.raises(DivergedError, match="the gradient's norm was nan at step 1 of 4"):
        fit(model, noise, SHORT)
    assert_same(model.state_dict(), make_model().state_dict())


def test_a_batch_that_does_not_divide_into_its_parts_is_refused(noise: Any, make_model: Any, fit: Any) -> None:
    with pytest.raises(UserError, match=r"recipe.batch_size \(8\) does not divide into 1 processes of 3"):
        fit(make_model(), noise, replace(SHORT, accumulate=3))


def test_fewer_samples_than_a_batch_are_refused(noise: Any, make_model: Any, fit: Any) -> None:
    with pytest.raises(UserError, match=r"recipe.samples \(7\) must cover one batch of 8"):
        fit(make_model(), noise, replace(SHORT, samples=7))


def test_the_loader_is_ended_with_the_training_and_with_an_error(noise: Any, make_model: Any, fit: Any) -> None:
    fit(make_model(), noise, replace(SHORT, samples=35))
    assert noise.closed == 1
    noise.poisoned = 0
    with pytest.raises(DivergedError):
        fit(make_model(), noise, SHORT)
    assert noise.closed == 2


def test_the_wait_for_data_is_part_of_the_time_and_evaluation_is_not(noise: Any, make_model: Any, fit: Any) -> None:
    example, predict = noise._example, noise.predict

    def slow(*words: Any) -> Any:
        time.sleep(0.01)
        return example(*words)

    def slow_predict(*words: Any) -> Any:
        time.sleep(2.0)
        return predict(*words)

    noise._example, noise.predict = slow, slow_predict
    training = fit(make_model("identity"), noise, replace(SHORT, evaluations=1))
    assert 0.32 <= training.waiting <= training.seconds
    assert training.seconds < training.waiting + 2.0  # the one batch of the one evaluation takes that long


def test_progress_is_the_share_of_steps(noise: Any, make_model: Any, fit: Any) -> None:
    seen: list[float] = []
    fit(make_model("identity"), noise, SHORT, progress=seen.append)
    assert seen == [0.25, 0.5, 0.75, 1.0]


def test_mixed_precision_trains_in_bf16_with_weights_in_fp32(noise: Any, make_model: Any, fit: Any) -> None:
    seen = set()

    def loss(model: nn.Module, batch: Any, recipe: Recipe) -> torch.Tensor:
        logits = model(batch.images)
        seen.add(logits.dtype)
        return nn.functional.cross_entropy(logits.float(), batch.targets)

    noise.loss = loss
    model = make_model()
    fit(model, noise, SHORT, autocast=torch.bfloat16)
    assert seen == {torch.bfloat16}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_recomputed_activations_give_the_same_training(noise: Any, make_model: Any, fit: Any) -> None:
    kept, recomputed = make_model("swin", drop_path=0.5), make_model("swin", drop_path=0.5)
    one = fit(kept, noise, SHORT)
    other = fit(recomputed, noise, replace(SHORT, checkpointing=True))
    assert one.losses == other.losses
    assert_same(kept.state_dict(), recomputed.state_dict())


def test_a_model_that_cannot_recompute_is_refused(noise: Any, fit: Any) -> None:
    with pytest.raises(UserError, match="cannot recompute"):
        fit(nn.Linear(1, 1), noise, replace(SHORT, checkpointing=True))


def test_an_evaluation_gives_the_outcome_of_every_image_in_order(noise: Any, make_model: Any) -> None:
    model = make_model()
    signs: list[float] = []
    found = evaluate(
        model, noise, SHORT, resolution=(32, 32), device=CPU, autocast=None, workers=0, progress=signs.append
    )
    alone = copy.deepcopy(model).eval()
    images = noise.batches("val", (32, 32), Loading(1), SHORT)
    expected = [float(alone(batch.images).argmax() == batch.targets[0]) for batch in images]
    assert found.outcomes == expected
    assert found.metrics == {"top1": sum(expected) / 10}
    assert signs == [0.0]
    assert not model.training


def test_the_loader_alone_is_counted_by_the_clock(noise: Any, monkeypatch: Any) -> None:
    now = 0.0
    example = noise._example

    def timed(*words: Any) -> Any:
        nonlocal now
        now += 0.125
        return example(*words)

    noise._example = timed
    monkeypatch.setattr("attnbench.training.throughput.time.perf_counter", lambda: now)
    assert loader_throughput(noise, SHORT, resolution=(32, 32), seed=0, workers=0, seconds=3.0) == 8.0
