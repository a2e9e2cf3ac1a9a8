"""The table of exact counts: equal to the last digit, or told so; what ours leave out is itemised and sums up."""

from attnbench import models
from attnbench.published import reported
from attnbench.tables import counts
from attnbench.tables.measured import Cost, Measured, Selection
from attnbench.tables.measuring import cost

NAMES = ("focal_tiny", "swin_tiny")


def measured(**changes: int) -> Measured:
    needs = counts.needs(Selection(models=NAMES), models.names())
    costs = {(need.key, need.resolution): cost(need) for need in needs}
    focal = costs["focal_tiny", (224, 224)]
    costs["focal_tiny", (224, 224)] = Cost(
        focal.parameters + changes.get("parameters", 0), focal.macs + changes.get("macs", 0), focal.surplus
    )
    return Measured(costs=costs)


def verdicts(found: Measured) -> list[tuple[str, ...]]:
    table = counts.build(found, Selection(models=NAMES))
    return [tuple(verdict for cell in row.cells for verdict in cell.verdicts()) for row in table.rows]


def test_ours_are_the_authors_to_the_last_digit_and_one_more_would_be_noticed() -> None:
    assert verdicts(measured()) == [("equal", "equal"), ("equal", "equal")]
    assert verdicts(measured(parameters=1)) == [("differs", "equal"), ("equal", "equal")]
    assert verdicts(measured(macs=-1)) == [("equal", "differs"), ("equal", "equal")]
    assert verdicts(Measured()) == [("not measured", "not measured")] * 2


def test_the_itemised_sum_is_the_authors_count() -> None:
    table = counts.build(measured(), Selection(models=NAMES))
    (line,) = [note for note in table.notes if " here + " in note]
    *terms, total = [int(word.replace(",", "")) for word in line.split() if word.replace(",", "").isdigit()]
    assert sum(terms) == total
    assert f"{total}" == next(row.traced_macs for row in reported.counts() if row.model_key == "focal_tiny")
    assert "ring keys that occur twice" in line
    assert "pooled queries" in line


def test_every_published_model_is_counted_at_224_and_more_on_request() -> None:
    needs = counts.needs(Selection(), models.names())
    assert {need.name for need in needs} >= set(models.names())
    assert {need.resolution for need in needs} == {(224, 224)}
    larger = counts.needs(Selection(models=("focal_tiny",), resolutions=((448, 448), (896, 896))), models.names())
    assert [need.resolution for need in larger] == [(448, 448), (896, 896)]
