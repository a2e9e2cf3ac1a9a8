"""Figures that claims are made of: one number, as printed in the data and as measured here."""

from dataclasses import dataclass

from attnbench.published import reported
from attnbench.published.model_names import model_name
from attnbench.tables.measured import Interval, Measured

FOCAL_SPEED = "microsoft/Focal-Transformer README.md (throughput table)"
FASTER_SPEED = "microsoft/Focal-Transformer README.md (faster version table)"
FOCAL = "microsoft/Focal-Transformer README.md"

_IMAGENET = {"parameters": "params_M", "macs": "gflops", "top1": "top1"}


@dataclass(frozen=True, slots=True)
class Figure:
    """One quantity of one model in one source.

    ``quantity`` is parameters, macs, top1 or throughput for ImageNet models; a column of the detection or segmentation
    data; or ``ablation``. ``where`` tells rows of one model apart: detector and schedule, framework, study and setting.
    """

    quantity: str
    model: str
    source: str
    side: int = 224
    where: tuple[str, ...] = ()

    def printed(self) -> str:
        """Return the value as printed.

        Raises:
            LookupError: the data have no such value; a claim may rest on nothing that is not printed.
        """
        found = _printed(self)
        if found is None:
            raise LookupError(f"nothing printed for {self}")
        return found

    def here(self, measured: Measured) -> Interval | None:
        """Return the value measured here, a number without spread as an interval of no width; None without one.

        Throughput is in units of Swin-Tiny's in the same run at the same resolution.
        """
        key = (self.model, (self.side, self.side))
        if self.where:
            return None
        if self.quantity == "throughput":
            return measured.speed(key)
        if self.quantity == "top1":
            value = measured.accuracy.get(key)
        else:
            cost = measured.costs.get(key)
            value = None if cost is None else getattr(cost, self.quantity)
        return None if value is None else Interval(value, value, value)


def _printed(figure: Figure) -> str | None:
    if figure.where:
        return _in_tasks(figure)
    if figure.quantity == "throughput":
        rows = [
            row.throughput_img_per_s
            for row in reported.throughput()
            if (model_name(row.model_key), row.resolution, row.source) == (figure.model, figure.side, figure.source)
        ]
        return rows[0] if rows else None
    found = [
        getattr(row, _IMAGENET[figure.quantity])
        for row in reported.imagenet()
        if model_name(row.model_key, row.variant) == figure.model
        and (row.resolution, row.source, row.pretrain) == (figure.side, figure.source, "ImageNet-1K")
    ]
    return next((value for value in found if value is not None), None)


def _in_tasks(figure: Figure) -> str | None:
    if figure.quantity == "ablation":
        study, setting, metric = figure.where
        rows = [r for r in reported.ablations() if (r.study, r.setting, r.metric) == (study, setting, metric)]
        return next((r.value for r in rows if (r.model_key, r.source) == (figure.model, figure.source)), None)
    for row in reported.tasks():
        if (model_name(row.model_key), row.source, _place(row)) == (figure.model, figure.source, figure.where):
            value = getattr(row, figure.quantity, None)
            if value is not None:
                return str(value)
    return None


def _place(row: reported.TaskRow) -> tuple[str | None, str]:
    """Return detector or framework, and schedule or, for whole systems, whether the test was augmented."""
    if isinstance(row, reported.SystemRow):
        return row.framework, f"augmented test {row.test_time_aug}"
    return row.framework if isinstance(row, reported.Ade20kRow) else row.detector, row.schedule
