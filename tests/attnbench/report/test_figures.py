"""The figures, read from matplotlib's own objects."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from math import sqrt
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from attnbench.record import Record
from attnbench.report.figures import draw, figures, render
from attnbench.report.panels import looks, style
from attnbench.report.rows import rows
from attnbench.report.spread import spreads

Run = Callable[..., list[Record]]
Spoil = Callable[..., list[Record]]
Figures = dict[str, Figure]
NAMES = ["accuracy_throughput", "latency_resolution", "memory_resolution"]
M12 = [f"mechanism{index}" for index in range(12)]


def drawn(records: list[Record]) -> Figures:
    return figures(rows(records), spreads(records))


def lines(axes: Axes) -> list[Any]:
    """Return the points of each line that joins a mechanism's points, error bars left out."""
    bars = {id(part) for box in axes.containers if isinstance(box, ErrorbarContainer) for part in (box[0], *box[1])}
    return [
        (np.asarray(one.get_xdata()).tolist(), np.asarray(one.get_ydata()).tolist())
        for one in axes.lines
        if id(one) not in bars
    ]


def labels(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts if isinstance(text, Annotation)]


def note(figure: Figure) -> str:
    return figure.get_supxlabel()


def legend(figure: Figure) -> list[str]:
    return [text.get_text().strip() for text in figure.legends[0].get_texts()]


def bars(axes: Axes) -> list[tuple[float, float]]:
    """Return the lower and upper end of every error bar."""
    found = [box for box in axes.containers if isinstance(box, ErrorbarContainer) and box.has_yerr]
    return [(segment[0][1], segment[1][1]) for box in found for part in box[2] for segment in part.get_segments()]


def test_a_run_has_three_figures(run: Run) -> None:
    assert list(drawn(run())) == NAMES


def test_accuracy_is_drawn_over_throughput_with_units(run: Run) -> None:
    figure = drawn(run())["accuracy_throughput"]
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_xscale()) == ("throughput (img/s)", "top-1 (%)", "log")
    assert sorted(labels(axes)) == ["focal", "swin"]
    assert lines(axes)[0] == (pytest.approx([62.5, 250]), pytest.approx([50, 60]))
    assert legend(figure) == ["224x224", "448x448", "transfer"]


def test_a_share_has_no_tick_beyond_one_hundred_per_cent(run: Run) -> None:
    mechanisms = [f"mechanism{index}" for index in range(20)]  # the last scores 0.98
    (axes,) = drawn(run(mechanisms))["accuracy_throughput"].axes
    assert axes.get_ylim()[1] > 100
    assert len(axes.get_yticks()) >= 3
    assert max(axes.get_yticks()) <= 100


def test_a_transfer_is_hollow_and_a_trained_score_is_filled(run: Run) -> None:
    (axes,) = drawn(run(["focal"]))["accuracy_throughput"].axes
    points = [box[0] for box in axes.containers if isinstance(box, ErrorbarContainer)]
    assert [point.get_markerfacecolor() == "white" for point in points] == [False, True]
    assert len({point.get_marker() for point in points}) == 2  # one per resolution
    assert "transfer" not in legend(drawn(run(["focal"], each=True))["accuracy_throughput"])


def test_scores_have_bars_from_least_to_greatest_seed_and_one_seed_has_none(run: Run) -> None:
    several = drawn(run(["focal"], [(224, 224)], seeds=3))["accuracy_throughput"]
    assert bars(several.axes[0]) == [pytest.approx((60, 62))]
    assert "least to greatest over seeds" in note(several)
    single = drawn(run(["focal"], [(224, 224)]))["accuracy_throughput"]
    assert bars(single.axes[0]) == []
    assert "indicative" in note(single)


def test_latency_is_drawn_on_two_logarithmic_axes_with_its_interval(run: Run) -> None:
    figure = drawn(run())["latency_resolution"]
    (axes,) = figure.axes
    assert (axes.get_xscale(), axes.get_yscale(), axes.get_ylabel()) == ("log", "log", "latency (ms per batch)")
    assert lines(axes) == [
        (pytest.approx([224, 448]), pytest.approx([4, 16])),
        (pytest.approx([224, 448]), pytest.approx([4.4, 17.6])),
    ]
    assert bars(axes)[0] == pytest.approx((4 * 0.97, 4 * 1.05))
    assert legend(figure) == ["focal", "swin"]


def test_without_an_interval_of_its_own_a_latency_takes_the_ratios(run: Run) -> None:
    table = rows(run())
    (axes,) = figures(table)["latency_resolution"].axes
    assert bars(axes)[2] == pytest.approx((4.4 * 1.085 / 1.1, 4.4 * 1.115 / 1.1))


def test_memory_has_a_panel_for_inference_and_one_for_training(run: Run) -> None:
    inference, training = drawn(run(["focal"]))["memory_resolution"].axes
    assert inference.get_ylabel() == "peak memory, inference (MiB)"
    assert training.get_ylabel() == "peak memory, training (MiB)"
    assert lines(inference) == [(pytest.approx([224, 448]), pytest.approx([30, 120]))]
    assert lines(training) == [(pytest.approx([224, 448]), pytest.approx([120, 480]))]
    assert (inference.get_xscale(), inference.get_yscale()) == ("log", "log")


def test_resolutions_stand_at_the_root_of_their_area_under_their_names(run: Run) -> None:
    (axes,) = drawn(run(["focal"], [(224, 448), (448, 224), (512, 512)]))["latency_resolution"].axes
    assert list(axes.get_xticks()) == pytest.approx([sqrt(224 * 448), 512])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["224x448\n448x224", "512x512"]


def test_a_mechanism_has_one_colour_in_every_figure(run: Run) -> None:
    records = run(M12)
    made = drawn(records)
    with style():
        expected = [look.colour for look in looks(rows(records)).values()]
    for name in ("latency_resolution", "memory_resolution"):
        handles = made[name].legends[0].legend_handles
        assert [to_hex(handle.get_color()) for handle in handles if handle is not None] == expected  # type: ignore[attr-defined]
        assert len({handle.get_marker() for handle in handles if handle is not None}) == 12  # type: ignore[attr-defined]
    (axes,) = made["accuracy_throughput"].axes
    points = [box[0].get_color() for box in axes.containers if isinstance(box, ErrorbarContainer)]
    assert [to_hex(colour) for colour in points] == [colour for colour in expected for _ in range(2)]
    assert len(set(expected)) == 12


def test_mechanisms_and_resolutions_beyond_what_can_be_told_apart_are_left_out_and_counted(run: Run) -> None:
    many = [f"mechanism{index}" for index in range(26)]
    made = drawn(run(many, [(224, 224)]))
    for figure in made.values():
        assert "2 further mechanisms are not drawn" in note(figure)
    handles = made["latency_resolution"].legends[0].legend_handles
    looks_of = {(h.get_color(), h.get_marker(), h.get_linestyle()) for h in handles if h is not None}  # type: ignore[attr-defined]
    assert len(looks_of) == len(handles) == 24
    sides = [(side, side) for side in range(64, 64 + 8 * 40, 8)]
    wide = drawn(run(["focal"], sides))
    assert len(lines(wide["latency_resolution"].axes[0])[0][0]) == 40
    assert len(wide["latency_resolution"].axes[0].get_xticks()) <= 24
    assert "28 larger resolutions are not drawn" in note(wide["accuracy_throughput"])
    assert len(legend(wide["accuracy_throughput"])) == 13  # and what is hollow


@pytest.mark.parametrize("count", [1, 4, 12])
def test_every_mechanism_has_a_label_inside_the_frame_that_covers_no_other(run: Run, count: int) -> None:
    figure = drawn(run(M12[:count], [(224, 224), (448, 448), (672, 672)], seeds=2))["accuracy_throughput"]
    render(figure, "png")
    (axes,) = figure.axes
    found = [text for text in axes.texts if isinstance(text, Annotation)]
    assert len(found) == count
    extents = [Text.get_window_extent(text) for text in found]  # less the line that leads to the point
    for one, other in combinations(extents, 2):
        assert not one.overlaps(other)
    for one in extents:
        assert axes.bbox.x0 - 1 <= one.x0
        assert one.x1 <= axes.bbox.x1 + 1


def test_settings_and_tasks_have_panels_of_their_own(run: Run) -> None:
    made = drawn(run() + run(batch_size=8) + run(task="counting", cost=False))
    assert len(made["latency_resolution"].axes) == 2
    assert len(made["accuracy_throughput"].axes) == 4
    assert len(made["memory_resolution"].axes) == 4
    titles = [axes.get_title(loc="left") for axes in made["latency_resolution"].axes]
    assert titles == [f"size nano, batch size {size}, fp32, cpu, 2 threads" for size in (1, 8)]


def test_heads_of_different_cost_have_panels_of_their_own(run: Run) -> None:
    records = [
        replace(item, cell=replace(item.cell, task="detection", head=head))
        for head, mechanisms in (("retinanet", ["focal"]), ("mask_rcnn", ["swin", "focal"]))
        for item in run(mechanisms)
    ]
    made = drawn(records)
    assert [axes.get_title(loc="left").replace("\n", " ") for axes in made["latency_resolution"].axes] == [
        f"detection ({head}), size nano, batch size 1, fp32, cpu, 2 threads" for head in ("retinanet", "mask_rcnn")
    ]
    assert [len(lines(axes)) for axes in made["latency_resolution"].axes] == [1, 2]
    assert len(made["accuracy_throughput"].axes) == 2
    assert len(made["memory_resolution"].axes) == 4


def test_a_failed_cell_is_left_out_and_named(run: Run, spoil: Spoil) -> None:
    records = spoil(run(), "out_of_memory", "x", probe="latency", mechanism="swin", resolution=(448, 448))
    made = drawn(records)
    assert "Left out: swin at 448x448 (out of memory)." in note(made["latency_resolution"])
    assert "Left out: swin at 448x448 (out of memory)." in note(made["accuracy_throughput"])
    assert [len(x) for x, _ in lines(made["latency_resolution"].axes[0])] == [2, 1]
    assert "Left out" not in note(made["memory_resolution"])


def test_a_zero_has_no_place_on_a_logarithmic_axis_and_is_named(run: Run) -> None:
    table = rows(run())
    table[0]["peak_memory_inference_B"] = 0
    figure = figures(table)["memory_resolution"]
    assert [len(x) for x, _ in lines(figure.axes[0])] == [1, 2]
    assert "Left out: focal at 224x224 (zero). (inference)" in note(figure)


def test_a_figure_without_data_is_not_drawn(run: Run) -> None:
    assert drawn([]) == {}
    assert list(drawn(run(cost=False))) == []
    cost = [record for record in run() if record.cell.probe in ("macs", "latency")]
    assert list(drawn(cost)) == ["latency_resolution"]


def test_one_point_has_room_and_ticks_on_every_axis(run: Run) -> None:
    for figure in drawn(run(["focal"], [(224, 224)])).values():
        for axes in figure.axes:
            low, high = axes.get_ylim()
            assert len([tick for tick in axes.get_yticks() if low <= tick <= high]) >= 2
            assert low < lines(axes)[0][1][0] < high


@pytest.mark.parametrize("name", ["$x_{$", "_hidden", "<b>&amp;", "a" * 300, "ünï"])
def test_a_strangers_name_can_be_drawn(run: Run, name: str) -> None:
    made = drawn(run([name], [(224, 224)]))
    assert legend(made["latency_resolution"])[0][:3] == name[:3]
    assert b"<svg" in render(made["latency_resolution"], "svg")
    with style():
        assert render(made["accuracy_throughput"], "png").startswith(b"\x89PNG")


def test_the_same_rows_give_the_same_bytes(run: Run, tmp_path: Path) -> None:
    table, known = rows(run(seeds=2)), spreads(run(seeds=2))
    first, second = (draw(table, tmp_path / name, known) for name in ("a", "b"))
    assert [path.name for path in first] == [f"{name}.{kind}" for name in NAMES for kind in ("png", "svg")]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert b"<dc:date>" not in first[1].read_bytes()


def test_drawing_leaves_no_state_behind(run: Run, tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    draw(rows(run(["focal"], [(224, 224)])), tmp_path)
    assert dict(mpl.rcParams) == before
    from matplotlib import pyplot as plt

    assert plt.get_fignums() == []


def test_the_report_never_imports_torch() -> None:
    code = (
        "import sys, attnbench.report.figures, attnbench.report.markdown, attnbench.report.table;"
        "print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
