"""Every table: its rows, that its numbers are those of the data, and that nothing absent looks like zero."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from attnbench.errors import UserError
from attnbench.published import reported
from attnbench.published.model_names import model_name
from attnbench.tables.ablations import VARIANTS
from attnbench.tables.build import ALL, BUILDERS, build, needs, printed_models
from attnbench.tables.layout import page
from attnbench.tables.measured import Measured, Selection, variant_key
from attnbench.tables.model import Cell, Row, Table
from attnbench.tables.page import Page
from attnbench.tables.throughput import timeable

NOTHING = Measured()
AT = (224, 224)


def row_of(table: Table, *lead: str) -> Row:
    (found,) = [row for row in table.rows if row.lead[: len(lead)] == lead]
    return found


def cell_of(row: Row, quantity: str) -> Cell:
    (found,) = [cell for cell in row.cells if cell.quantity.name == quantity]
    return found


def pages(measured: Measured) -> list[Page]:
    return [page(build(name, measured)) for name in BUILDERS]


def printed(rows: Iterable[Any], columns: Iterable[str]) -> set[tuple[str, str, str]]:
    """Return (value, source, model) of everything printed in these columns."""
    names = [(row, model_name(row.model_key, getattr(row, "variant", ""))) for row in rows]
    return {
        (getattr(row, column), row.source, name) for row, name in names for column in columns if getattr(row, column)
    }


COLUMNS = {
    "imagenet": (reported.imagenet, ("params_M", "gflops", "top1", "top5")),
    "coco": (reported.coco, ("params_M", "gflops", *(f"box_ap{w}" for w in ("", "50", "75", "s", "m", "l")))),
    "ade20k": (reported.ade20k, ("params_M", "gflops", "miou_ss", "miou_ms")),
    "ablations": (reported.ablations, ("value", "params_M", "gflops")),
    "configs": (reported.configs, ("embed_dim", "depth", "heads", "head_dim", "mlp_ratio", "window_partition_s_p")),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_table_shows_every_printed_number_of_its_file_with_its_source(name: str) -> None:
    load, columns = COLUMNS[name]
    shown = {(r["reported"], r["source"], r["model"]) for r in page(build(name, NOTHING)).records if r["reported"]}
    missing = printed(load(), columns) - shown
    assert not missing


def test_tables_show_no_number_that_is_not_in_the_data() -> None:
    known = {value for row in _all_rows() for value in row}
    for name in BUILDERS:
        for record in page(build(name, NOTHING)).records:
            if record["quantity"] != "ratio to Swin-T":
                assert record["reported"] is None or record["reported"] in known, record


def _all_rows() -> Iterable[tuple[str, ...]]:
    files = (reported.imagenet, reported.throughput, reported.tasks, reported.ablations, reported.configs)
    for load in files:
        for row in load():
            yield tuple(str(getattr(row, name)) for name in type(row).__slots__)
    for count in reported.counts():
        yield f"{int(count.params):,}", f"{int(count.traced_macs):,}"


def test_a_speed_ratio_is_of_one_source_and_resolution() -> None:
    table = build("throughput", NOTHING)
    for row in table.rows:
        for found in cell_of(row, "throughput_ratio").reported:
            if found.behind is not None:
                over, under = found.behind.split(" / ")
                same = [
                    r for r in reported.throughput() if r.source == found.source and str(r.resolution) in row.lead[1]
                ]
                values = {model_name(r.model_key): r.throughput_img_per_s for r in same}
                assert (values[row.model], values["swin_tiny"]) == (over, under)
                assert found.printed == f"{float(over) / float(under):.3f}"


def test_the_papers_ratios_to_swin_tiny_are_those_known() -> None:
    table = build("throughput", NOTHING)
    for side, value in ((224, "0.420"), (448, "0.556"), (896, "0.562")):
        found = cell_of(row_of(table, "Focal-Tiny", f"{side}x{side}"), "throughput_ratio").reported
        assert {each.printed for each in found} == {value}


def test_a_time_ratio_becomes_a_throughput_ratio(measured: Measured) -> None:
    here = cell_of(row_of(build("throughput", measured), "Focal-Tiny", "224x224"), "throughput_ratio").here
    assert here is not None
    assert (here.value, here.low, here.high) == (1 / 2.4, 1 / 2.5, 1 / 2.3)


def test_what_is_timed_by_default_can_be_built_and_starts_with_the_reference(measured: Measured) -> None:
    names = list(measured.configurations)
    models, resolutions = timeable(Selection(), names)
    assert models[0] == "swin_tiny"
    assert {"focal_tiny", "focal_fast_base_conv_embed", "pvt_v2_b5", "timm:deit_small_patch16_224"} <= set(models)
    assert all(name in names or name.startswith("timm:") for name in models)
    assert resolutions == ((224, 224), (448, 448), (896, 896))


def test_every_published_model_has_a_row_at_224(measured: Measured) -> None:
    table = build("imagenet", measured)
    assert {row.model for row in table.rows if row.lead[1] == "224x224"} >= set(measured.configurations)
    assert [part.caption for part in table.parts] == ["224x224", "384x384"]


def test_measured_models_and_reported_only_ones_are_listed(measured: Measured) -> None:
    notes = build("imagenet", measured).notes
    assert notes[0].startswith("Parameters and MACs measured here: focal_tiny, focal_tiny_conv_embed, swin_tiny,")
    assert notes[1].startswith("Reported only: ")
    assert "CvT-13" in notes[1]
    assert "Swin-Small" in notes[1]  # it failed


def test_values_of_sources_that_disagree_stand_side_by_side(measured: Measured) -> None:
    cell = cell_of(row_of(build("imagenet", measured), "Swin-Tiny", "224x224"), "parameters")
    assert list(dict.fromkeys(found.printed for found in cell.reported)) == ["29", "28", "28.3", "28.29"]
    assert cell.verdicts() == ("differs", "reproduces", "reproduces", "reproduces")


def test_the_authors_own_values_come_first_and_others_are_told_apart(measured: Measured) -> None:
    found = page(build("imagenet", measured, Selection(("swin_tiny",))))
    (row,) = found.grids[0].rows
    assert row[1:3] == (("29", "28", "28.3", "28.29"), ("[1]", "[2]", "[3]", "[r1]"))
    assert any("evaluated again by someone else" in note for note in found.notes)


def test_a_failure_is_a_cell_with_its_reason_and_the_others_go_on(measured: Measured) -> None:
    found = page(build("imagenet", measured, Selection(("swin_small", "swin_tiny"))))
    cells = {row[0][0]: row for row in found.grids[0].rows}
    assert cells["Swin-Small"][3] == ("failed",)
    assert set(cells["Swin-Small"][5]) == {"not measured"}
    assert cells["Swin-Tiny"][3] == ("28.29",)
    assert "Failed here: Swin-Small, 224x224: RuntimeError: no such kernel." in found.notes


@pytest.mark.parametrize("name", BUILDERS)
def test_what_is_absent_is_a_word(name: str, measured: Measured) -> None:
    for given in (measured, NOTHING):
        for grid in page(build(name, given)).grids:
            assert all(len(row) == len(grid.columns) for row in grid.rows)
            assert all(
                line.strip() not in ("", "0", "nan", "None")
                for row in grid.rows
                for cell in row[1:]
                for line in cell
                if line not in known_zeros(name)
            )


def known_zeros(name: str) -> tuple[str, ...]:
    return ("0",) if name == "configs" else ()


@pytest.mark.parametrize("name", [name for name in BUILDERS if name not in ("configs", "counts")])
def test_an_unmeasured_table_says_so_in_every_part(name: str) -> None:
    for grid in page(build(name, NOTHING)).grids:
        assert all(row[-1] == ("not measured",) for row in grid.rows)
        assert grid.columns[-1].header == "measured here"


def test_every_setting_equals_the_authors(measured: Measured) -> None:
    counts: Counter[str] = Counter()
    for row in build("configs", measured).rows:
        counts.update(verdict for cell in row.cells for verdict in cell.verdicts() if cell.reported)
    assert set(counts) == {"equal"}


def test_a_setting_that_differs_shows_both(measured: Measured) -> None:
    changed = {"swin_tiny": {**measured.configurations["swin_tiny"], "depths": [2, 2, 8, 2]}}
    found = page(build("configs", Measured(configurations=changed), Selection(("swin_tiny",))))
    (blocks,) = [index for index, column in enumerate(found.grids[0].columns) if column.header == "blocks"]
    assert [row[blocks] for row in found.grids[0].rows] == [("2 equal",), ("2 equal",), ("6 differs: 8",), ("2 equal",)]


def test_ablations_are_settings_under_the_authors_names(measured: Measured) -> None:
    for variant in VARIANTS:
        known = {*measured.configurations[variant.model], "use_shift"}
        assert {name for name, _ in variant.changes} <= known
    assert len({(v.study, v.model, v.setting) for v in VARIANTS}) == len(VARIANTS)


def test_printed_ablations_meet_their_variants() -> None:
    table = build("ablations", NOTHING)
    shift = row_of(table, "Swin-Tiny", "shift")
    assert {found.printed for found in cell_of(shift, "top1").reported} == {"81.2", "81.3"}
    early = {
        row.lead[0]: cell_of(row, "top1").reported[0] for row in table.rows if row.lead[-1] == "faster convergence"
    }
    assert {name: (found.printed, found.kind) for name, found in early.items()} == {
        "Focal-Tiny": ("75.7", "secondary"),
        "Swin-Tiny": ("73.9", "secondary"),
    }
    assert cell_of(row_of(table, "Swin-Tiny", "window 14"), "top1").reported == ()


def test_an_ablation_is_measured_under_its_changes(measured: Measured) -> None:
    cell = cell_of(row_of(build("ablations", measured), "Swin-Tiny", "window 14"), "parameters")
    assert cell.here is not None
    assert cell.here.value == 28_344_898


def test_a_model_and_a_resolution_choose_rows(measured: Measured) -> None:
    table = build("imagenet", measured, Selection(("focal_tiny", "swin_tiny"), (AT, (448, 320))))
    assert [(row.model, row.lead[1]) for row in table.rows] == [
        ("focal_tiny", "224x224"),
        ("swin_tiny", "224x224"),
        ("focal_tiny", "448x320"),
        ("swin_tiny", "448x320"),
    ]


def test_a_model_that_no_source_prints_gets_a_row_of_words(measured: Measured) -> None:
    (row,) = build("imagenet", measured, Selection(("timm:resnet18",))).rows
    assert all(cell.verdicts() == ("not printed",) for cell in row.cells)


def test_needs_are_what_can_be_built_each_once(measured: Measured) -> None:
    names = list(measured.configurations)
    found = needs(ALL, Selection(), names)
    assert len({(need.key, need.resolution) for need in found}) == len(found)
    assert {need.key for need in found} >= {*names, "timm:resnet50", "swin_base[window_size=12]"}
    assert not [need for need in found if need.name not in names and not need.name.startswith("timm:")]
    assert {need.name for need in needs("coco", Selection(), names)} <= set(names)
    assert needs("detectors", Selection(), names) == ()


def test_a_variants_key_reads_like_its_settings() -> None:
    assert variant_key("focal_tiny", {}) == "focal_tiny"
    assert variant_key("focal_tiny", {"focal_levels": [1, 1]}) == "focal_tiny[focal_levels=[1,1]]"


def test_an_unknown_table_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown table 'imagnet'; did you mean 'imagenet'"):
        build("imagnet", NOTHING)


def test_printed_models_cover_all_files() -> None:
    assert {"focal_large", "cvt_13", "swin_large", "pvt_v2_b5", "timm:resnet50"} <= printed_models()
