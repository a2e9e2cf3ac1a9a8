"""Predictions held against the ledger of real CPU tensors: equal to the byte."""

from collections.abc import Callable
from functools import partial
from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from attnbench.backbone import build_model
from attnbench.errors import UserError
from attnbench.measure.largest_batch import largest_batch
from attnbench.measure.memory import inference_step, peak_tensor_memory, training_step
from attnbench.measure.pass_ledger import PassLedger
from attnbench.measure.prediction import Prediction, Predictor, Step, predict
from attnbench.models import create_model
from attnbench.registry import MECHANISMS

Build = Callable[[], nn.Module]
CPU = torch.device("cpu")
STEPS: tuple[Step, ...] = ("inference", "training")
FP32, BF16 = torch.float32, torch.bfloat16


def on_meta(build: Build) -> nn.Module:
    with torch.device("meta"):
        return build()


def real_step(
    build: Build, resolution: tuple[int, int], batch: int, dtype: torch.dtype, step: Step, channels_last: bool = False
) -> Callable[[], None]:
    """A step on real tensors that has run once: what modules make and keep is there."""
    form = torch.channels_last if channels_last else torch.contiguous_format
    model = build().to(dtype)
    model = model.to(memory_format=torch.channels_last) if channels_last else model
    images = torch.randn(batch, 3, *resolution).to(dtype).contiguous(memory_format=form)
    loss = partial(F.cross_entropy, target=torch.zeros(batch, dtype=torch.long))
    run = training_step(model, images, loss) if step == "training" else inference_step(model, images)
    run()
    return run


def measured(run: Callable[[], None]) -> tuple[int, PassLedger]:
    """The peak of the ledger that measures, and a ledger that sees into composite operators too."""
    peak, _ = peak_tensor_memory(run, CPU)
    with PassLedger() as ledger:
        run()
    return peak, ledger


def check(build: Build, resolution: tuple[int, int], batch: int, dtype: torch.dtype, step: Step) -> Prediction:
    found = predict(on_meta(build), resolution, batch, dtype, step)
    peak, ledger = measured(real_step(build, resolution, batch, dtype, step))
    assert found.peak == ledger.peak
    assert found.kernel == ledger.kernels
    # In inference mode the measuring ledger gets attention whole and misses what it allocates within itself.
    assert found.peak == peak if step == "training" else peak <= found.peak <= 1.1 * peak
    return found


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(("resolution", "batch", "dtype"), [((64, 64), 1, FP32), ((65, 41), 3, BF16)], ids=str)
@pytest.mark.parametrize("mechanism", list(MECHANISMS))
def test_prediction_equals_the_ledger_of_every_mechanism(
    mechanism: str, resolution: tuple[int, int], batch: int, dtype: torch.dtype, step: Step
) -> None:
    check(lambda: build_model(mechanism, "nano", resolution=resolution, num_classes=10), resolution, batch, dtype, step)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("mechanism", ["swin", "focal", "full"])
def test_of_parts_that_are_alike_a_prediction_runs_one_and_counts_all(mechanism: str, step: Step) -> None:
    """Of 101 images: their MLP takes 13 parts in the first stage, the last of which is shorter."""

    def build() -> nn.Module:
        return build_model(mechanism, "nano", resolution=(64, 64), num_classes=10)

    found = check(build, (64, 64), 101, FP32, step)
    _, ledger = measured(real_step(build, (64, 64), 101, FP32, step))
    assert found.traffic == ledger.traffic
    # It ends, and all but gradients of parameters and the memory of a chunk has grown with the images, 9900 times.
    assert predict(on_meta(build), (64, 64), 10**6, FP32, step).peak > 8500 * found.peak


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("mechanism", ["identity", "swin", "focal"])
def test_for_a_gpu_nothing_is_predicted_that_is_done_on_cpus_alone(
    mechanism: str, step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build() -> nn.Module:
        return build_model(mechanism, "nano", resolution=(64, 64), num_classes=10)

    def watched() -> nn.Module:
        """The same model with hooks, because of which its layers get whole maps."""
        model = build()
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.register_forward_hook(lambda *_: None)
        return model

    found = predict(on_meta(build), (64, 64), 101, FP32, step, device="cuda")
    assert found.peak > predict(on_meta(build), (64, 64), 101, FP32, step).peak
    boxes = import_module("attnbench.mechanisms._boxes")  # by name: a type checker sees no plug-ins
    products = import_module("attnbench.mechanisms._region_products")
    monkeypatch.setattr(boxes, "CHUNK", boxes.FAR_CHUNK)
    monkeypatch.setattr(products, "FEW_QUERIES", 0)  # no products written out
    _, ledger = measured(real_step(watched, (64, 64), 101, FP32, step))
    assert found.peak == ledger.peak


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", ["swin_tiny", "pvt_v2_b0", "timm:resnet18", "timm:deit_tiny_patch16_224"])
def test_prediction_equals_the_ledger_of_models_by_name(name: str, step: Step) -> None:
    resolution = (64, 96)
    check(lambda: create_model(name, resolution, 10), resolution, 2, FP32, step)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(("name", "backend"), [("math", SDPBackend.MATH), ("flash", SDPBackend.FLASH_ATTENTION)])
def test_the_kernel_asked_for_runs_and_decides_the_memory(name: str, backend: SDPBackend, step: Step) -> None:
    resolution, batch = (96, 96), 2
    build = partial(build_model, "full", "nano", resolution=resolution, num_classes=10)
    found = predict(on_meta(build), resolution, batch, FP32, step, kernel=name)
    with sdpa_kernel(backend):
        _, ledger = measured(real_step(build, resolution, batch, FP32, step))
    assert (found.kernel, found.peak) == (name, ledger.peak)
    scores = 4 * batch * 1 * (24 * 24) ** 2  # fp32, one head, the first stage's tokens
    assert (found.peak > scores) == (name == "math" or step == "training")


def test_a_mask_that_learns_takes_math_in_training_where_the_backward_pass_is_torchs() -> None:
    kernels = {}
    for mechanism in ("swin", "focal_fast"):
        build = partial(build_model, mechanism, "nano", resolution=(64, 64), num_classes=10)
        kernels[mechanism] = {step: predict(on_meta(build), (64, 64), 1, FP32, step).kernel for step in STEPS}
    assert kernels["focal_fast"] == {"inference": "flash", "training": "math"}
    assert kernels["swin"] == {"inference": "flash", "training": "flash+products"}  # its backward pass is our own


@pytest.mark.parametrize("step", STEPS)
def test_prediction_equals_the_ledger_in_channels_last(step: Step) -> None:
    build = partial(create_model, "timm:resnet18", (64, 64), 10)
    found = predict(on_meta(build), (64, 64), 2, FP32, step, channels_last=True)
    peak, _ = measured(real_step(build, (64, 64), 2, FP32, step, channels_last=True))
    assert found.peak == peak


def test_the_parts_of_the_total_follow_closed_forms() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 5), nn.BatchNorm1d(5))
    model[1].weight.requires_grad_(False)
    numbers, frozen, buffers = 5 * 48 + 5 + 5 + 5, 5 * 48, 2 * 5 * 2 + 8  # bf16; the count of batches is one int64
    found = {step: predict(model, (4, 4), 6, BF16, step) for step in STEPS}
    assert {item.parameters for item in found.values()} == {2 * numbers + buffers}
    assert {item.inputs for item in found.values()} == {2 * 6 * 3 * 4 * 4}
    assert found["inference"].optimiser == 0
    assert found["training"].optimiser == 2 * 2 * (numbers - frozen)
    training = found["training"]
    assert training.total == training.parameters + training.inputs + training.peak + training.optimiser


def test_traffic_of_a_linear_layer_is_what_it_reads_and_writes() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
    found = predict(model, (4, 4), 6, FP32, "inference")
    assert found.traffic == 4 * (6 * 48 + 48 * 5 + 5 + 6 * 5)


def test_shared_weights_count_once_and_the_model_stays_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Flatten())
    model[1] = model[0]
    before = {name: (id(item), item.clone()) for name, item in model.state_dict(keep_vars=True).items()}
    assert predict(model, (2, 2), 1, BF16, "training").parameters == 2 * (9 + 3)
    assert model.training
    for name, item in model.state_dict(keep_vars=True).items():
        assert id(item) == before[name][0]
        assert torch.equal(item, before[name][1])


@pytest.mark.parametrize(
    ("kernel", "message"),
    [("efficient", "CUDA only"), ("cudnn", "CUDA only"), ("flsh", "did you mean 'flash'"), ("", "known: flash, math")],
)
def test_a_kernel_that_cannot_be_predicted_is_refused(kernel: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        predict(nn.Flatten(), (4, 4), 1, FP32, "inference", kernel=kernel)


def test_a_kernel_that_cannot_run_is_refused_in_one_line() -> None:
    build = partial(build_model, "focal_fast", "nano", resolution=(64, 64), num_classes=10)
    with (
        pytest.warns(UserWarning, match="Flash attention"),
        pytest.raises(UserError, match="training at 64 x 64 pixels cannot be predicted: RuntimeError") as refused,
    ):
        predict(on_meta(build), (64, 64), 1, FP32, "training", kernel="flash")
    assert "\n" not in str(refused.value)


def test_control_flow_on_numbers_is_refused() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(UserError, match="cannot be predicted"):
        predict(Branching(), (4, 4), 1, FP32, "inference")


@pytest.mark.parametrize("step", STEPS)
def test_memory_is_convex_in_the_batch_size_and_the_largest_batch_is_the_last_that_fits(step: Step) -> None:
    predictor = Predictor(on_meta(partial(build_model, "full", "nano", resolution=(64, 64))), (64, 64), FP32)
    totals = {size: predictor.predict(size, step).total for size in range(1, 6)}
    rises = [totals[size + 1] - totals[size] for size in range(1, 5)]
    assert rises == sorted(rises)
    for limit in (totals[4], totals[5] - 1):
        assert largest_batch(totals.__getitem__, limit, 3) == 4


@pytest.mark.parametrize("first", [1, 64, 5000])
@pytest.mark.parametrize(
    ("base", "slope", "steep", "most"), [(0, 1, 1, 3), (1000, 7, 9, 4), (123, 5, 5, 3), (50_000, 3, 40, 26)]
)
def test_the_largest_batch_is_found_in_few_calls(base: int, slope: int, steep: int, most: int, first: int) -> None:
    def total(size: int) -> int:
        calls.append(size)
        return max(base + slope * size, steep * size)

    for limit in (base, base + 50, 10_000, 77_777, 999_999):
        calls: list[int] = []
        found = largest_batch(total, limit, first, fixed=base)
        assert len(calls) <= most
        assert found == 0 or total(found) <= limit
        assert total(found + 1) > limit


def test_the_largest_batch_ends_at_a_million() -> None:
    assert largest_batch(lambda _: 5, 10, 64) == 10**6
