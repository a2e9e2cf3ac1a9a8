"""Costs counted for the tables: on meta, and a model that fails stops no other."""

import pytest

from attnbench.tables.measured import Cost, Measured, Need
from attnbench.tables.measuring import measure

AT = (224, 224)


def test_a_models_cost_is_counted_at_its_resolution() -> None:
    found = measure([Need("swin_tiny", "swin_tiny", AT)], Measured())
    assert found.costs == {("swin_tiny", AT): Cost(28_288_354, 4_490_566_656)}


def test_changes_reach_the_model() -> None:
    changed = Need("swin_tiny[depths=[2,2,2,2]]", "swin_tiny", AT, (("depths", [2, 2, 2, 2]),))
    found = measure([changed], Measured())
    assert found.costs[changed.key, AT].parameters < 28_288_354


@pytest.mark.parametrize("name", ["no_such_model", "timm:no_such_model"])
def test_a_model_that_fails_becomes_its_reason_and_the_others_go_on(name: str) -> None:
    told = []
    needs = [Need(name, name, AT), Need("pvt_v2_b0", "pvt_v2_b0", AT)]
    found = measure(needs, Measured(), lambda done, total, key: told.append((done, total, key)))
    assert "no_such_model" in found.failures[name, AT]
    assert "\n" not in found.failures[name, AT]
    assert found.costs["pvt_v2_b0", AT].parameters == 3_666_760
    assert told == [(0, 2, name), (1, 2, "pvt_v2_b0")]


def test_what_is_known_is_not_counted_again() -> None:
    known = Measured(costs={("no_such_model", AT): Cost(1, 2)})
    assert measure([Need("no_such_model", "no_such_model", AT)], known) == known
