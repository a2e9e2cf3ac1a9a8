"""Memory of one batch without the memory: the step runs on fake CPU tensors under the ledger of real ones.

Fake tensors have shapes, types and a device, so every operator allocates what it would, and torch chooses the same
attention kernel as on a CPU; no number is computed. The prediction equals the ledger of a real run. It is not the
process: what that is charged besides is a model's matter, see ``resident``.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Final, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from attnbench.devices import elsewhere
from attnbench.errors import UserError, unknown
from attnbench.measure.memory import inference_step, stand_in_loss, training_step
from attnbench.measure.pass_ledger import PassLedger
from attnbench.measure.resident import ResidentLedger
from attnbench.measure.twins import FakeTensors, meta_twin
from attnbench.parts import alike

Step = Literal["inference", "training"]
KERNELS: Final = {"math": SDPBackend.MATH, "flash": SDPBackend.FLASH_ATTENTION}
_CUDA_KERNELS: Final = ("efficient", "cudnn")
_MOMENTS: Final = 2  # that AdamW keeps of every number it trains


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one step takes; bytes."""

    peak: int  # above parameters and input, as the ledger has it: activations, and in training gradients
    parameters: int  # buffers too
    optimiser: int  # AdamW's two moments in the type of the parameters; 0 in inference
    inputs: int  # images
    traffic: int  # what operators read and write, views left out: 2 x MACs over it is the arithmetic intensity
    kernel: str  # that attention ran with: flash, math, flash+math, ...; none without attention

    @property
    def total(self) -> int:
        """Bytes that must fit a device."""
        return self.parameters + self.inputs + self.peak + self.optimiser


class Predictor:
    """A model as fake tensors, ready for steps of any batch size; see :func:`predict`."""

    def __init__(
        self,
        model: nn.Module,
        resolution: tuple[int, int],
        dtype: torch.dtype,
        kernel: str | None = None,
        channels_last: bool = False,
        device: str = "cpu",
    ) -> None:
        if kernel is not None:
            check_kernel(kernel)
        self._resolution, self._dtype, self._kernel = resolution, dtype, kernel
        self._on_cpu = device == "cpu"
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        twin = meta_twin(model).to(dtype=dtype)
        self._twin = twin.to(memory_format=torch.channels_last) if channels_last else twin
        self._fakes = FakeTensors()
        self._model = self._fakes.twin(self._twin)
        self.parameters = sum(map(_bytes, chain(self._model.parameters(), self._model.buffers())))
        self.trainable = sum(_bytes(item) for item in self._model.parameters() if item.requires_grad)

    def predict(self, batch_size: int, step: Step) -> Prediction:
        """Run one step on ``batch_size`` images; see :func:`predict`."""
        with self._telling(step):
            ledger, images = self._run(batch_size, step)
        return Prediction(
            peak=ledger.peak,
            parameters=self.parameters,
            optimiser=_MOMENTS * self.trainable if step == "training" else 0,
            inputs=_bytes(images),
            traffic=ledger.traffic,
            kernel=ledger.kernels,
        )

    def resident(self, batch_size: int, step: Step, threads: int) -> int:
        """Return by how many bytes the resident set of a fresh Linux process with so many threads grows in one step."""
        with self._telling(step):
            model = self._fakes.twin(self._twin)  # a new one, whose tables are not made yet
            run, _ = self._step(model, batch_size, step)
            with self._as_called(), ResidentLedger(threads) as ledger:
                run()
        return int(ledger.peak_resident)

    def _run(self, batch_size: int, step: Step) -> tuple[PassLedger, Tensor]:
        run, images = self._step(self._model, batch_size, step)
        for _ in range(2):
            with self._as_called(), PassLedger() as ledger:
                run()
            if not ledger.current:
                break  # else a module made a table and keeps it: as in a real run, the second time is measured
        return ledger, images

    def _step(self, model: nn.Module, batch_size: int, step: Step) -> tuple[Callable[[], None], Tensor]:
        """Return a step of ``model``, and its images."""
        images = self._fakes.empty(batch_size, 3, *self._resolution, dtype=self._dtype, memory_format=self._format)
        targets = self._fakes.zeros(batch_size, dtype=torch.long)
        loss = stand_in_loss(targets)
        return (training_step(model, images, loss) if step == "training" else inference_step(model, images)), images

    @contextmanager
    def _as_called(self) -> Iterator[None]:
        """Whatever mode the caller is in (weights made in inference mode could not be trained), with our kernel."""
        choice = nullcontext() if self._kernel is None else sdpa_kernel(KERNELS[self._kernel])
        place = nullcontext() if self._on_cpu else elsewhere()
        with torch.inference_mode(False), torch.enable_grad(), choice, place, alike():
            yield

    @contextmanager
    def _telling(self, step: Step) -> Iterator[None]:
        """Make whatever goes wrong the user's: a model can do anything."""
        if step not in get_args(Step):
            raise unknown("step", step, get_args(Step))
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            first = (str(error).strip().splitlines() or [""])[0]
            height, width = self._resolution
            raise UserError(
                f"{step} at {height} x {width} pixels cannot be predicted: {type(error).__name__}: {first}"
            ) from error


def predict(
    model: nn.Module,
    resolution: tuple[int, int],
    batch_size: int,
    dtype: torch.dtype,
    step: Step,
    kernel: str | None = None,
    channels_last: bool = False,
    device: str = "cpu",
) -> Prediction:
    """Predict the memory of one inference batch or one training step (forward, cross-entropy, backward).

    Args:
        model: on any device, best on ``meta``; it stays as it is. It maps (B, 3, H, W) to logits (B, classes).
        resolution: (H, W) of the images in pixels.
        batch_size: B.
        dtype: of parameters and images.
        step: ``inference`` or ``training``.
        kernel: the only one that attention may take, ``math`` or ``flash``; None: what torch chooses on a CPU.
        channels_last: whether images and convolutions are in channels-last memory format.
        device: ``cpu``, or ``cuda``: without what is done on CPUs alone, a part of a map at a time.

    Raises:
        UserError: an unknown or unpredictable kernel; a model that does not run on fake tensors, at this resolution
            or with this kernel.
    """
    return Predictor(model, resolution, dtype, kernel, channels_last, device).predict(batch_size, step)


def check_kernel(kernel: str) -> None:
    """Refuse a kernel that is unknown, or that fake CPU tensors cannot tell about."""
    if kernel in _CUDA_KERNELS:
        raise UserError(
            f"kernel {kernel!r} runs on CUDA only, and a prediction runs on CPU tensors: it knows {', '.join(KERNELS)}"
        )
    if kernel not in KERNELS:
        raise unknown("kernel", kernel, KERNELS)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
