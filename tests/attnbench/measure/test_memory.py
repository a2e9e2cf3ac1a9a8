import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnbench.measure import memory
from attnbench.measure.memory import (
    TensorLedger,
    inference_step,
    peak_memory,
    peak_rss_growth,
    peak_tensor_memory,
    training_step,
)

CPU = torch.device("cpu")
MIB = 2**20
FLOATS = 1000
BYTES = 4 * FLOATS
linux = pytest.mark.skipif(sys.platform != "linux", reason="resets the peak through /proc")


class Attending(nn.Module):
    """Convolution, batch norm, fused attention with a learned bias, an in-place activation, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 4, stride=4)
        self.norm = nn.BatchNorm2d(16)
        self.qkv = nn.Linear(16, 48)
        self.bias = nn.Parameter(torch.zeros(64, 64))
        self.head = nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm(self.embed(images)).relu_().flatten(2).transpose(1, 2)
        q, k, v = self.qkv(x).unflatten(2, (3, 2, 8)).permute(2, 0, 3, 1, 4).unbind()
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias).transpose(1, 2).flatten(2)
        return self.head(x.mean(1))


def peak_of(step: Callable[[Tensor], object]) -> int:
    given = torch.ones(FLOATS)
    return peak_tensor_memory(lambda: step(given), CPU)[0]


def grown(tensor: Tensor) -> Tensor:
    return tensor.resize_(3 * FLOATS)


@pytest.mark.parametrize("training", [False, True])
def test_ledger_equals_torchs_own_tracker(training: bool) -> None:
    from torch.distributed._tools.mem_tracker import MemTracker

    torch.manual_seed(0)
    model, images = Attending(), torch.randn(2, 3, 32, 32)
    step = training_step(model, images, lambda out: out.square().mean()) if training else inference_step(model, images)
    peak, kind = peak_tensor_memory(step, CPU)
    tracker = MemTracker()
    tracker.track_external(model, images)
    before = sum(device["Total"] for device in tracker.get_tracker_snapshot().values())
    with tracker, torch.no_grad() if not training else nullcontext():
        # The tracker does not take composite operators apart, as torch itself does but in inference mode.
        step() if training else model(images)
    assert peak == sum(device["Total"] for device in tracker.get_tracker_snapshot("peak").values()) - before
    assert kind == "cpu_tensor_ledger"


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (lambda x: x + 1, BYTES),
        (lambda x: x.relu().relu().relu().relu(), 2 * BYTES),  # one is read while the next is written
        (lambda x: [x + 1, x + 2, x + 3], 3 * BYTES),
        (lambda x: (x * 2).view(10, -1).t()[1:], BYTES),
        (lambda x: x.view(10, -1).t()[1:].detach(), 0),
        (lambda x: x.add_(1).relu_(), 0),
        (lambda x: x.chunk(4), 0),
        (lambda x: torch.add(x, x, out=x), 0),
        (lambda x: torch.add(x, x, out=torch.empty(0)), BYTES),
        (lambda x: x.expand(50, -1), 0),
        (lambda x: x.double(), 2 * BYTES),
        (lambda _: torch.tensor([1.0, 2.0]), 8),
        (lambda x: x.sum().item(), 4),
        (grown, 2 * BYTES),
        (lambda x: grown(x + 1), 3 * BYTES),
        (lambda x: grown(grown(x)), 2 * BYTES),
        (lambda x: x.resize_(1), 0),
        (lambda x: torch.empty(0).set_(x.untyped_storage()), 0),
        (lambda x: x, 0),
    ],
)
def test_ledger_equals_closed_form(step: Callable[[Tensor], object], expected: int) -> None:
    assert peak_of(step) == expected


def test_inference_of_a_linear_layer_allocates_its_output() -> None:
    step = inference_step(nn.Linear(300, 700), torch.ones(5, 300))
    assert peak_tensor_memory(step, CPU) == (5 * 700 * 4, "cpu_tensor_ledger")


def test_backward_counts_gradients() -> None:
    weight = nn.Parameter(torch.ones(FLOATS))
    peak, _ = peak_tensor_memory(lambda: torch.autograd.backward(weight.sum()), CPU)
    # The sum, its gradient (the seed), and the weight's gradient: the seed expanded, copied to be the weight's own.
    assert peak == BYTES + 2 * 4


def test_ledger_forgets_what_is_freed_and_keeps_the_peak() -> None:
    with TensorLedger() as ledger:
        kept = torch.ones(FLOATS)
        dropped = kept + 1
        view = dropped[1:]
        del dropped
        assert ledger.current == 2 * BYTES
        del view
        assert ledger.current == BYTES
        kept.untyped_storage().resize_(0)
        kept.detach()
        assert ledger.current == 0
    assert ledger.peak == 2 * BYTES


def test_training_step_leaves_no_gradients_and_repeats() -> None:
    model, images = Attending(), torch.randn(2, 3, 32, 32)
    torch.autograd.backward(model(images).sum())  # gradients from before are released
    step = training_step(model.eval(), images, lambda out: out.sum())
    assert all(parameter.grad is None for parameter in model.parameters())
    peaks = {peak_tensor_memory(step, CPU) for _ in range(3)}
    assert len(peaks) == 1
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_training_takes_more_than_inference_by_at_least_the_gradients() -> None:
    model, images = Attending(), torch.randn(2, 3, 32, 32)
    inference, _ = peak_tensor_memory(inference_step(model, images), CPU)
    training, _ = peak_tensor_memory(training_step(model, images, lambda out: out.sum()), CPU)
    assert training >= inference + 4 * sum(parameter.numel() for parameter in model.parameters())


@linux
def test_growth_of_the_process_is_what_the_step_touched() -> None:
    growth, kind = peak_rss_growth(lambda: torch.ones(64 * MIB // 4))
    assert kind == "process_rss"
    assert 60 * MIB <= growth <= 80 * MIB


@linux
def test_an_earlier_peak_does_not_hide_growth() -> None:
    torch.ones(160 * MIB // 4)
    growth, _ = peak_rss_growth(lambda: torch.ones(64 * MIB // 4))
    assert growth >= 60 * MIB


@linux
def test_growth_is_read_where_the_peak_cannot_be_reset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert memory._reset_high_water()
    monkeypatch.setattr(memory, "_CLEAR_REFS", tmp_path / "missing" / "clear_refs")
    growth, _ = peak_rss_growth(lambda: torch.ones(64 * MIB // 4))
    assert 60 * MIB <= growth <= 80 * MIB


def test_cpu_has_a_ledger_and_a_process_figure() -> None:
    calls = []
    readings = peak_memory(lambda: calls.append(torch.ones(FLOATS)), CPU)
    assert readings[0] == (BYTES, "cpu_tensor_ledger")
    assert [kind for _, kind in readings] == ["cpu_tensor_ledger", "process_rss"]
    assert len(calls) == 2


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_peak_is_the_allocators() -> None:
    device = torch.device("cuda")
    given = torch.ones(MIB, device=device)
    (allocated, reserved, used) = peak_memory(lambda: given.relu().relu().relu(), device)
    assert allocated == (2 * 4 * MIB, "cuda_allocated")
    assert reserved[1] == "cuda_reserved"
    assert used[1] == "cuda_device"
    assert 0 <= reserved[0] <= 2 * 20 * MIB  # segments of 20 MiB, of which what is there may have free space
