"""Kernels of attention: what is reported is held against the operators that torch's profiler sees."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import attnbench
from attnbench.errors import UserError
from attnbench.measure.kernel import attention_kernel, with_kernel
from attnbench.measure.prediction import predict

SHAPE = (2, 3, 17, 8)  # (B, heads, N, D)
OPERATORS = {
    "aten::_scaled_dot_product_flash_attention_for_cpu": "flash",
    "aten::_scaled_dot_product_attention_math": "math",
}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def seen(step: Callable[[], object]) -> str:
    """The kernels whose operators run within ``step``."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        step()
    names = {event.key for event in found.key_averages()}
    return "+".join(sorted(kernel for operator, kernel in OPERATORS.items() if operator in names)) or "none"


def attention(inference: bool = True, mask: Tensor | None = None, learn: bool = False) -> Callable[[], Tensor]:
    q, k, v = (drawn(*SHAPE, seed=seed).requires_grad_(learn) for seed in range(3))

    def step() -> Tensor:
        with torch.inference_mode(inference):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    return step


MASK = drawn(17, 17, seed=9)
STEPS: dict[str, tuple[Callable[[], Callable[[], Tensor]], str]] = {
    "inference": (lambda: attention(), "flash"),
    "training": (lambda: attention(inference=False, learn=True), "flash"),
    "mask": (lambda: attention(mask=MASK), "flash"),
    "mask that learns": (lambda: attention(inference=False, mask=MASK.clone().requires_grad_()), "math"),
    "mask that learns, in inference": (lambda: attention(mask=MASK.clone().requires_grad_()), "math"),
    "three dimensions": (lambda: lambda: F.scaled_dot_product_attention(*(drawn(3, 5, 8),) * 3), "flash"),
    "keywords": (
        lambda: (
            lambda: F.scaled_dot_product_attention(
                query=drawn(*SHAPE), key=drawn(*SHAPE), value=drawn(*SHAPE), is_causal=True, scale=0.3
            )
        ),
        "flash",
    ),
    "dropout": (lambda: lambda: F.scaled_dot_product_attention(*(drawn(*SHAPE),) * 3, dropout_p=0.5), "math"),
    "no attention": (lambda: lambda: torch.softmax(drawn(3, 3) @ drawn(3, 3), -1), "none"),
}


@pytest.mark.parametrize("name", STEPS)
def test_the_kernel_reported_is_the_one_that_runs(name: str) -> None:
    make, expected = STEPS[name]
    step = make()
    assert seen(step) == expected
    assert attention_kernel(step) == expected


def test_several_kernels_are_named_together_and_each_once() -> None:
    flash, math = attention(), attention(mask=MASK.clone().requires_grad_())
    assert attention_kernel(lambda: (math(), flash(), math())) == "flash+math"


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ["math", "flash"])
def test_a_chosen_kernel_runs_and_computes_the_same(name: str, masked: bool) -> None:
    step = attention(mask=MASK if masked else None)
    chosen = with_kernel(step, name)
    assert attention_kernel(chosen) == seen(chosen) == name
    torch.testing.assert_close(chosen(), step(), rtol=0, atol=1e-5)
    assert attention_kernel(step) == "flash"  # the choice ends with the step


def test_math_is_softmax_of_the_scores() -> None:
    q, k, v = (drawn(*SHAPE, seed=seed).double() for seed in range(3))
    expected = torch.softmax(q @ k.mT / 8**0.5, -1) @ v
    out = with_kernel(attention(), "math")()
    assert isinstance(out, Tensor)
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=1e-5)


def test_without_a_name_the_step_stays_as_it_is() -> None:
    step = attention()
    assert with_kernel(step, None) is step


@pytest.mark.parametrize(("name", "message"), [("flsh", "did you mean 'flash'"), ("", "cudnn, efficient, flash, math")])
def test_an_unknown_kernel_is_refused_before_anything_runs(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        with_kernel(lambda: pytest.fail("it ran"), name)


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch says at length why the kernel cannot take the arguments
def test_a_kernel_that_cannot_take_the_arguments_is_an_error_of_the_step() -> None:
    chosen = with_kernel(attention(inference=False, mask=MASK.clone().requires_grad_()), "flash")
    with pytest.raises(RuntimeError):
        chosen()
    with pytest.raises(RuntimeError):
        attention_kernel(chosen)
    assert attention_kernel(attention()) == "flash"  # and nothing is left behind


def test_looking_runs_the_step_once_and_changes_nothing_of_it() -> None:
    step, outputs = attention(inference=False, learn=True), list[Tensor]()
    attention_kernel(lambda: outputs.append(step()))
    assert len(outputs) == 1
    assert torch.equal(outputs[0], step())
    assert outputs[0].requires_grad


@pytest.mark.parametrize("learns", [True, False])
def test_attention_within_a_module_of_torch_is_seen_too(learns: bool) -> None:
    layer = nn.MultiheadAttention(16, 2, batch_first=True).train(learns)
    x = drawn(2, 5, 16)
    step = lambda: layer(x, x, x, need_weights=False)  # noqa: E731
    assert seen(step) == "flash"
    assert attention_kernel(step) == "flash"


def test_products_that_a_mechanism_writes_out_are_seen_and_give_way_to_a_chosen_kernel() -> None:
    torch.manual_seed(0)
    model = attnbench.build_model("swin", "nano", resolution=(224, 224), num_classes=3).eval()
    images, outputs = torch.randn(1, 3, 224, 224), {}

    def step(name: str) -> None:
        with torch.inference_mode():
            outputs[name] = model(images)

    found = {name: attention_kernel(with_kernel(partial(step, str(name)), name)) for name in (None, "math", "flash")}
    assert found == {None: "flash+products", "math": "math", "flash": "flash"}
    for name in ("math", "flash"):
        torch.testing.assert_close(outputs[name], outputs["None"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["swin", "focal"])
@pytest.mark.parametrize("train", [False, True])
def test_a_bias_that_learns_takes_no_kernel_that_stores_the_scores(name: str, train: bool) -> None:
    build = partial(attnbench.build_model, name, "nano", resolution=(224, 224), num_classes=3)
    model, images = build().train(train), torch.randn(1, 3, 224, 224)

    def step() -> None:
        with torch.inference_mode(not train):
            out = model(images)
        if train:
            out.sum().backward()

    assert attention_kernel(step) == "flash+products"
    with torch.device("meta"):
        twin = build()
    assert predict(twin, (224, 224), 1, torch.float32, "training" if train else "inference").kernel == "flash+products"
