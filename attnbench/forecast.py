"""What contenders will take, without running them: one forecast per contender and resolution."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

from attnbench.contenders import Contender
from attnbench.measure.largest_batch import largest_batch
from attnbench.report.rows import one_line

if TYPE_CHECKING:
    from torch import nn

    from attnbench.measure.prediction import Prediction, Predictor, Step

FLOPS_PER_MAC: Final = 2
STEPS: "Final[tuple[Step, ...]]" = ("inference", "training")

Resolution = tuple[int, int]
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of every contender."""

    resolutions: tuple[Resolution, ...]  # (H, W), pixels
    batch_size: int
    precision: str  # fp32, bf16
    num_classes: int
    memory_limit: int  # B
    threads: int
    kernel: str | None = None  # the only one that attention may take
    channels_last: bool = False
    device: str = "cpu"  # cpu, cuda


@dataclass(frozen=True, slots=True)
class StepForecast:
    """One step at the batch size asked for, and how far that could go."""

    prediction: "Prediction"
    resident: int | None  # B that a process grows by; None on a GPU
    largest_batch: int  # that fits the limit; not looked for beyond a million
    fits: bool


@dataclass(frozen=True, slots=True)
class Forecast:
    """One contender at one resolution; what could not be predicted is None, and the reason says why."""

    contender: str
    resolution: Resolution
    macs: int | None = None  # of one image
    inference: StepForecast | None = None
    training: StepForecast | None = None
    reason: str | None = None

    def step(self, name: "Step") -> StepForecast | None:
        """Return the forecast of a step by its name."""
        return self.inference if name == "inference" else self.training


def forecasts(found: Sequence[Contender], question: Question, progress: Progress | None = None) -> Iterator[Forecast]:
    """Yield the forecast of every contender at every resolution; one that cannot be had leaves the others be.

    ``progress`` is told how many are done, of how many, and which comes next.
    """
    cells = [(contender, resolution) for contender in found for resolution in question.resolutions]
    for done, (contender, resolution) in enumerate(cells):
        if progress is not None:
            progress(done, len(cells), f"{contender.label} {resolution[0]} x {resolution[1]}")
        yield forecast(contender, resolution, question)


def forecast(contender: Contender, resolution: Resolution, question: Question) -> Forecast:
    """Return the forecast of one contender at one resolution."""
    import torch

    from attnbench.measure.macs import count_macs
    from attnbench.measure.prediction import Predictor

    dtype = torch.float32 if question.precision == "fp32" else torch.bfloat16
    parts: dict[str, int | StepForecast] = {}
    try:
        with torch.device("meta"):
            model = _build(contender, resolution, question.num_classes)
        parts["macs"] = count_macs(model, (3, *resolution))
        predictor = Predictor(model, resolution, dtype, question.kernel, question.channels_last, question.device)
        for step in STEPS:
            parts[step] = _step(predictor, step, question)
    except Exception as error:  # noqa: BLE001 (a failure is a result: its row says why)
        reason = one_line(str(error) or type(error).__name__)
        return Forecast(contender.label, resolution, **parts, reason=reason)  # type: ignore[arg-type]
    return Forecast(contender.label, resolution, **parts)  # type: ignore[arg-type]


def intensity(macs: int, batch_size: int, inference: "Prediction") -> float:
    """Return the arithmetic intensity of inference in FLOP/B: 2 x MACs x batch over the bytes its operators move."""
    return FLOPS_PER_MAC * macs * batch_size / inference.traffic


def runs_out(found: Sequence[Forecast], step: "Step") -> Resolution | None:
    """Return the smallest resolution at which the batch asked for does not fit; None if it fits wherever predicted."""
    failing = [item.resolution for item in found if (result := item.step(step)) is not None and not result.fits]
    return min(failing, key=lambda sides: sides[0] * sides[1], default=None)


def _build(contender: Contender, resolution: Resolution, num_classes: int) -> "nn.Module":
    from attnbench.backbone import build_model
    from attnbench.models import create_model

    if contender.is_model:
        return create_model(contender.mechanism, resolution, num_classes, **contender.settings)
    return build_model(
        contender.mechanism, contender.size, resolution=resolution, num_classes=num_classes, **contender.settings
    )


def _step(predictor: "Predictor", step: "Step", question: Question) -> StepForecast:
    @cache
    def predicted(batch_size: int) -> "Prediction":
        return predictor.predict(batch_size, step)

    on_cpu = question.device == "cpu"
    resident = predictor.resident(question.batch_size, step, question.threads) if on_cpu else None
    asked = predicted(question.batch_size)
    fixed = predictor.parameters + asked.optimiser + (predictor.trainable if step == "training" else 0)
    largest = largest_batch(
        lambda batch_size: predicted(batch_size).total, question.memory_limit, question.batch_size, fixed
    )
    return StepForecast(asked, resident, largest, asked.total <= question.memory_limit)
