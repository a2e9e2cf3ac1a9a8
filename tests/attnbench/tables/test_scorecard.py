"""The scorecard: counts that add up, and claims whose figures are in the data and bear them out there."""

from dataclasses import replace
from decimal import ROUND_HALF_UP, Decimal

import pytest

from attnbench.tables import scorecard
from attnbench.tables.build import BUILDERS, build
from attnbench.tables.claims import Claim, claims, closing, crossing, descending
from attnbench.tables.figures import FOCAL_SPEED, Figure
from attnbench.tables.measured import Cost, Interval, Measured
from attnbench.tables.model import Cell, Here, Reported
from attnbench.tables.quantities import PARAMETERS, SPEED

EVERY = claims()
AT = (224, 224)


def the(text: str) -> Claim:
    (found,) = [claim for claim in EVERY if claim.text.startswith(text)]
    return found


@pytest.mark.parametrize("claim", EVERY, ids=lambda claim: claim.text)
def test_a_claim_rests_on_printed_figures_and_holds_of_them(claim: Claim) -> None:
    values = [Decimal(figure.printed()) for figure in claim.figures]
    assert claim.holds([float(value) for value in values])
    if claim.stated is not None:
        assert (values[0] / values[1]).quantize(Decimal(claim.stated), ROUND_HALF_UP) == Decimal(claim.stated)


def test_claims_are_told_apart_by_their_text() -> None:
    assert len({claim.text for claim in EVERY}) == len(EVERY)


def test_a_figure_that_nobody_prints_is_an_error() -> None:
    with pytest.raises(LookupError, match="nothing printed"):
        Figure("throughput", "swin_tiny", FOCAL_SPEED, 225).printed()


def test_the_papers_best_known_claims_are_among_them() -> None:
    assert [claim.stated for claim in EVERY if claim.text.startswith("Throughput of Focal-T over Swin-T")] == [
        "0.42",
        "0.56",
        "0.56",
    ]
    overtaking = the("Focal-T overtakes DeiT-S in throughput between 224 and 448")
    assert [figure.printed() for figure in overtaking.figures] == ["319", "939", "105", "101"]
    assert the("MACs of Focal-T over Swin-T's at 224:").stated == "1.09"


def test_without_measurements_no_claim_is_judged() -> None:
    assert {scorecard.judge(claim, Measured()) for claim in EVERY} == {"not measurable here"}


def timed(**ratios: float) -> Measured:
    known = {(name.rpartition("_")[0], (int(name.rpartition("_")[2]),) * 2): value for name, value in ratios.items()}
    return Measured(time_ratios={key: Interval(value, 0.99 * value, 1.01 * value) for key, value in known.items()})


def deit(measured: Measured) -> Measured:
    renamed = {(name.replace("deit", "timm:deit"), at): value for (name, at), value in measured.time_ratios.items()}
    return replace(measured, time_ratios=renamed)


def test_a_ratio_holds_within_its_tolerance_or_where_the_interval_covers_it() -> None:
    claim = the("Throughput of Focal-T over Swin-T at 224")
    assert scorecard.judge(claim, timed(focal_tiny_224=1 / 0.45)) == "holds"
    assert scorecard.judge(claim, timed(focal_tiny_224=1 / 0.50)) == "does not hold here"
    wide = Measured(time_ratios={("focal_tiny", AT): Interval(2.0, 1.65, 2.4)})
    assert scorecard.judge(claim, wide) == "holds"
    useless = Measured(time_ratios={("focal_tiny", AT): Interval(2.0, 1.0, 4.0)})
    assert scorecard.judge(claim, useless) == "does not hold here"
    assert scorecard.judge(claim, timed(focal_tiny_448=2.0)) == "not measurable here"


def test_overtaking_needs_both_resolutions() -> None:
    claim = the("Focal-T overtakes DeiT-S")
    low = {"focal_tiny_224": 2.4, "deit_small_patch16_224_224": 0.8}
    assert scorecard.judge(claim, deit(timed(**low))) == "not measurable here"
    later = deit(timed(**low, focal_tiny_448=1.8, deit_small_patch16_224_448=1.9))
    assert scorecard.judge(claim, later) == "holds"
    never = deit(timed(**low, focal_tiny_448=1.8, deit_small_patch16_224_448=1.7))
    assert scorecard.judge(claim, never) == "does not hold here"


def test_the_order_of_costs_is_judged_by_what_was_measured() -> None:
    claim = the("Focal-fast-T has fewer MACs than Focal-T")
    costs = {
        ("focal_tiny_conv_embed", AT): Cost(30_825_244, 5_199_788_544),
        ("focal_fast_tiny_conv_embed", AT): Cost(30_220_564, 5_388_412_672),
    }
    assert scorecard.judge(claim, Measured(costs=costs)) == "does not hold here"
    assert scorecard.judge(the("Focal-fast-T has fewer parameters"), Measured(costs=costs)) == "holds"


def test_the_predicates() -> None:
    assert descending([3, 2, 1])
    assert not descending([3, 3, 1])
    assert crossing([1, 2, 4, 3])
    assert not crossing([2, 1, 4, 3])
    assert closing([1, 2, 3, 4])
    assert not closing([3, 4, 1, 2])


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (Cell(PARAMETERS, (Reported("28.3", "a"),), Here(28_288_354)), "reproduces"),
        (Cell(PARAMETERS, (Reported("29", "a"), Reported("28.3", "b")), Here(28_288_354)), "some sources"),
        (Cell(PARAMETERS, (Reported("29", "a"),), Here(28_288_354)), "differs"),
        (Cell(PARAMETERS, (Reported("29", "a"),), Here(None, reason="no")), "failed"),
        (Cell(PARAMETERS, (Reported("29", "a"),)), "not measured"),
        (Cell(PARAMETERS, (), Here(1e6)), "not printed"),
        (Cell(PARAMETERS), None),
        (Cell(SPEED, (Reported("760", "a"),)), None),
    ],
)
def test_a_cell_counts_once(cell: Cell, expected: str | None) -> None:
    assert scorecard.state(cell) == expected


def test_the_counts_add_up_to_the_cells_of_all_tables(measured: Measured) -> None:
    tables = [build(name, measured) for name in BUILDERS]
    cells = [scorecard.state(cell) for table in tables for row in table.rows for cell in row.cells]
    grid = scorecard.page(tables, measured).grids[0]
    headers = [column.header for column in grid.columns]
    total = dict(zip(headers, (cell[0] for cell in grid.rows[-1]), strict=True))
    assert total["table"] == "all"
    for state, header in (("reproduces", "reproduces"), ("some sources", "partly"), ("failed", "failed")):
        assert int(total[header]) == cells.count(state)
    assert sum(int(total[header]) for header in headers[2:]) == len([state for state in cells if state is not None])


def test_every_claim_has_its_line_and_verdict(measured: Measured) -> None:
    found = scorecard.page([build(name, measured) for name in BUILDERS], measured)
    lines = {row[0][0]: row for row in found.grids[1].rows}
    assert set(lines) == {claim.text for claim in EVERY}
    assert lines["Throughput of Focal-T over Swin-T at 224: 0.42"][-1] == ("holds",)
    assert lines["MACs of Focal-T over Swin-T's at 224: 1.09"][3] == ("4.953 / 4.491 G = 1.103",)
    assert lines["Focal-T converges faster: top-1 at epoch 100 above Swin-T's"][3:] == (
        ("not measured",),
        ("not measurable here",),
    )


def test_every_disagreement_shows_both_values_with_their_sources(measured: Measured) -> None:
    rows = scorecard.page([], measured).grids[2].rows
    assert len(rows) == 66
    assert all(cell[0] for row in rows for cell in row)
