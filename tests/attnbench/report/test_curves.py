"""Learning curves, as values and as drawn."""

from collections.abc import Callable
from dataclasses import replace
from math import nan
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from attnbench.record import Measurement, Record
from attnbench.report.curves import Chart, charts
from attnbench.report.figures import figures, render
from attnbench.report.panels import style
from attnbench.report.races import races
from attnbench.report.rows import named, rows
from attnbench.report.spread import spreads

Trained = Callable[..., list[Record]]
FOCAL, SWIN = [[0.2, 0.5, 0.6], [0.3, 0.4, 0.8]], [[0.1, 0.2, 0.3]]


def of(records: list[Record]) -> list[Chart]:
    return [chart for race in races(named(records), "training") for chart in charts(race)]


def drawn(records: list[Record]) -> Figure:
    return figures(rows(records), spreads(records), of(records))["curves"]


def lines(axes: Axes) -> list[Any]:
    return [(np.asarray(one.get_xdata()).tolist(), np.asarray(one.get_ydata()).tolist()) for one in axes.lines]


def with_curve(record: Record, metric: str, **changes: Any) -> Record:
    """Give a training one more curve."""
    curve = Measurement(metric, 0.3, "1", samples=(0.1, 0.3), rounds=(100, 200), kind="curve")
    more = (replace(curve, **changes),) if record.cell.probe == "training" else ()
    return replace(record, measurements=(*more, *record.measurements))


def test_a_chart_has_a_line_per_mechanism_with_a_curve_per_seed(trained: Trained) -> None:
    (chart,) = of(trained({"focal": FOCAL, "swin": SWIN}))
    assert chart.metric == "top1"
    assert [(line.entrant.mechanism, len(line.curves)) for line in chart.lines] == [("focal", 2), ("swin", 1)]
    assert chart.lines[0].curves[1].images == (100, 200, 300)
    assert chart.lines[0].curves[1].scores == (0.3, 0.4, 0.8)
    assert chart.lines[0].final == pytest.approx(0.7)


def test_a_band_is_where_every_seed_was_scored(trained: Trained) -> None:
    (chart,) = of(trained({"focal": [[0.2, 0.5, 0.6], [0.3, 0.4]]}))
    band = chart.lines[0].band()
    assert [(images, seeds.least, seeds.greatest) for images, seeds in band] == [(100, 0.2, 0.3), (200, 0.4, 0.5)]
    assert [seeds.mean for _, seeds in band] == pytest.approx([0.25, 0.45])


def test_the_headline_comes_first_and_what_refines_another_metric_has_no_chart(trained: Trained) -> None:
    records = trained({"focal": SWIN}, task="detection", head="mask_rcnn", metric="box_ap")
    for metric in ("mask_ap", "mask_ap50", "box_ap_small", "box_ap75"):
        records = [with_curve(record, metric) for record in records]
    assert [chart.metric for chart in of(records)] == ["box_ap", "mask_ap"]


@pytest.mark.parametrize(
    "broken",
    [
        {"samples": ()},
        {"rounds": (100,)},
        {"rounds": (200, 100)},
        {"rounds": (0, 100)},
        {"samples": (nan, 0.3)},
        {"kind": None},
        {"samples": (), "rounds": ()},
    ],
)
def test_what_is_no_curve_is_left_out(trained: Trained, broken: dict[str, Any]) -> None:
    records = trained({"focal": SWIN})
    assert [chart.metric for chart in of([with_curve(one, "top5") for one in records])] == ["top1", "top5"]
    assert [chart.metric for chart in of([with_curve(one, "top5", **broken) for one in records])] == ["top1"]


def test_records_without_curves_have_no_chart(trained: Trained) -> None:
    assert of(trained(outcomes={"focal": [[0.0, 1.0]]})) == []


# The figure


def test_means_are_drawn_over_images_seen_with_a_band_from_least_to_greatest(trained: Trained) -> None:
    figure = drawn(trained({"focal": FOCAL, "swin": SWIN}))
    (axes,) = figure.axes
    assert lines(axes) == [
        ([100, 200, 300], pytest.approx([25, 45, 70])),
        ([100, 200, 300], pytest.approx([10, 20, 30])),
    ]
    (band,) = axes.collections
    corners = np.asarray(band.get_paths()[0].vertices)
    assert {(x, round(y, 6)) for x, y in corners.tolist()} >= {(100, 20), (100, 30), (300, 60), (300, 80)}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("training images seen", "validation top-1 (%)")
    note = figure.get_supxlabel()
    assert "bands: least to greatest" in note
    assert "One seed, indicative: swin." in note


def test_single_seeds_have_no_band_and_are_indicative(trained: Trained) -> None:
    figure = drawn(trained({"focal": SWIN, "swin": SWIN}))
    assert list(figure.axes[0].collections) == []
    assert figure.get_supxlabel() == "One seed per line: indicative."


def test_a_mechanism_has_the_colour_of_the_other_figures(trained: Trained, run: Callable[..., list[Record]]) -> None:
    records = run(["identity", "focal"]) + trained({"focal": SWIN})
    made = figures(rows(records), spreads(records), of(records))
    colours = [dict(zip(*_legend(made[name]), strict=True)) for name in ("latency_resolution", "curves")]
    assert set(colours[1].items()) < set(colours[0].items())


def _legend(figure: Figure) -> tuple[list[str], list[Any]]:
    (legend,) = figure.legends
    handles: list[Any] = list(legend.legend_handles)
    return [text.get_text() for text in legend.get_texts()], [handle.get_color() for handle in handles]


def test_tasks_heads_and_scores_have_panels_of_their_own(trained: Trained) -> None:
    records = trained({"focal": SWIN}) + trained({"focal": SWIN}, task="segmentation", head="upernet", metric="miou")
    figure = drawn([with_curve(record, "top5") if record.cell.head is None else record for record in records])
    assert [axes.get_ylabel() for axes in figure.axes] == [
        f"validation {score}" for score in ("top-1 (%)", "top-5 (%)", "mIoU (%)")
    ]
    assert figure.axes[2].get_title(loc="left").startswith("segmentation (upernet) at 224x224, size nano")


@pytest.mark.parametrize("name", ["$x_{$", "_hidden", "<b>&amp;", "a" * 300])
def test_a_strangers_name_can_be_drawn(trained: Trained, name: str) -> None:
    records = trained({name: SWIN}, task=name)
    with style():
        assert b"<svg" in render(drawn(records), "svg")
